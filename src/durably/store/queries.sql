-- Every statement, by name. One sentence, then the SQL. {braces} are filled in from state.py and by
-- the database's dialect when the file is loaded; values are always parameters. A name@postgres is what
-- PostgreSQL has in the statement's stead, or what it alone has: it writes many rows in one round trip.
-- {now} is the clock that leases are measured by, and {due_at}, {ended_at}, {before} are times on it that
-- the caller gave by its own: the host's clock on SQLite, the server's on PostgreSQL.

-- enqueue
-- A new run; no row back means that its scope knows its idempotency key (or, on a replay, its id).
insert into durably_runs (id, job, status, input, labels, idempotency_key, concurrency_key, scope, due_at, created_at, updated_at)
values (:id, :job, 'pending', :input, :labels, :idempotency_key, :concurrency_key, :scope, {now}, {now}, {now})
on conflict do nothing
returning {run}

-- enqueue_all@postgres
-- New runs and their first lines; those that come back are new. Those that a waiting worker may take are stored as
-- taken, by CLAIM of state.py, unless runs of its jobs are due that have waited longer. All batches insert their
-- keys in one order, so that no two of them wait for each other; the lines are in the order of the runs.
with given as materialized (
  select *, may_go and not exists (select 1 from unnest(cast(:jobs as text[])) as j (job)
                                    where exists (select 1 from durably_runs where job = j.job and due_at <= {now})) as goes
    from unnest(cast(:id as text[]), cast(:job as text[]), cast(:input as text[]), cast(:labels as text[]),
                cast(:idempotency_key as text[]), cast(:concurrency_key as text[]), cast(:scope as text[]), cast(:may_go as boolean[]))
    with ordinality as g (id, job, input, labels, idempotency_key, concurrency_key, scope, may_go, n)
), new as (
  insert into durably_runs (id, job, status, input, labels, idempotency_key, concurrency_key, scope, due_at, lease_owner, lease_token,
                            generation, created_at, started_at, updated_at)
  select id, job, case when goes then 'running' else 'pending' end, input, labels, idempotency_key, concurrency_key, scope,
         {now} + case when goes then cast(:lease as bigint) else 0 end, case when goes then cast(:lease_owner as text) end,
         case when goes then cast(:lease_token as text) end, case when goes then 1 else 0 end, {now}, case when goes then {now} end, {now}
    from given order by idempotency_key collate "C" nulls first, job, scope, n
  on conflict do nothing
  returning {run}
), line as (
  insert into durably_journal (run_id, seq, at, type, attempt, started_at)
  select id, 1, created_at, 'run:trigger', 0, cast(null as bigint) from new
  union all
  select id, 2, updated_at, 'run:start', generation, started_at from new where status = 'running'
  order by 1, 2
)
select {run} from new

-- place@postgres
-- Which server, database and table this is: two connections that agree write to the same runs.
select concat_ws(' ', extract(epoch from pg_postmaster_start_time()), current_database(), cast(to_regclass('durably_runs') as oid))

-- notify@postgres
-- Says something to all who listen, if and when the transaction is committed.
select pg_notify(:channel, :payload)

-- enqueued
-- The run that a conflicting insert met.
select {run} from durably_runs
 where id = :id or (job = :job and scope = :scope and idempotency_key = :idempotency_key)

-- waits
-- A run of the job that waits with the concurrency key and has not begun: parked behind the key, or due.
select {run} from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and key_slot = -1
   and job = :job and status = 'pending' and generation = 0
union all
select {run} from durably_runs
 where job = :job and due_at <= {never} and key_slot is null
   and scope = :scope and concurrency_key = :concurrency_key and status = 'pending' and generation = 0
 limit 1

-- lock_keys@postgres
-- One transaction at a time decides whether a run waits with these keys. In one order, and before it locks
-- anything else, so that no two wait for each other.
select pg_advisory_xact_lock(key)
  from (select distinct hashtextextended(name, 0) as key from unnest(cast(:names as text[])) as g (name) order by 1) as keys

-- due
-- One job's runs that want a worker, the longest due first; but none that lapsed so often before.
select due_at, id, status, recoveries, scope, concurrency_key, key_slot
  from durably_runs
 where job = :job and due_at <= {now} and not (status = 'running' and recoveries >= :skipped)
 order by due_at, id
 limit :limit

-- due_jobs@sqlite
-- Those of many jobs that have such a run.
select value from json_each(:jobs) as known
 where exists (select 1 from durably_runs
                where job = known.value and due_at <= {now} and not (status = 'running' and recoveries >= :skipped))

-- claim_due@postgres
-- Locks the runs that have been due longest, as many of each job as an unlocked look finds among the first,
-- and takes those that never lapsed and need no concurrency key; the others come back for a closer look.
-- A statement that had to wait for its tables takes over nothing: the renewals of live workers had to wait, too.
with look as (
  select job, count(*) as n
    from (select d.job from unnest(cast(:jobs as text[])) as j (job) cross join lateral (
            select job, due_at, id from durably_runs
             where job = j.job and due_at <= {now} and not (status = 'running' and (recoveries >= :skipped or (select clock_timestamp() > now() + interval '1 second')))
             order by due_at, id limit :limit) as d
          order by d.due_at, d.id limit :limit) as first
   group by job
), due as (
  select d.* from look cross join lateral (
    select due_at, id, status, recoveries, scope, concurrency_key, key_slot from durably_runs
     where job = look.job and due_at <= {now} and not (status = 'running' and (recoveries >= :skipped or (select clock_timestamp() > now() + interval '1 second')))
     order by due_at, id limit look.n
     for update skip locked) as d
), taken as (
  update durably_runs as r
     set status = 'running', lease_owner = :owner, lease_token = :token, generation = r.generation + 1, recoveries = 0,
         due_at = {now} + :lease, held_until = null, started_at = coalesce(r.started_at, {now}), updated_at = {now}
   where r.id = any(array(select id from due where status <> 'running' and concurrency_key is null))
  returning {r.run}
), line as (
  insert into durably_journal (run_id, seq, at, type, attempt, started_at)
  select id, (select coalesce(max(seq), 0) + 1 from durably_journal where run_id = taken.id),
         updated_at, 'run:start', generation, started_at
    from taken
  returning run_id, seq
)
select due.due_at, due.id, due.status, due.recoveries, due.scope, due.concurrency_key, due.key_slot, line.seq, {taken.run}
  from due left join taken on taken.id = due.id left join line on line.run_id = due.id
 order by due.due_at, due.id

-- any_due@sqlite
-- Whether one of several jobs has a run that wants a worker.
select 1 from json_each(:jobs) as known
 where exists (select 1 from durably_runs where job = known.value and due_at <= {now}) limit 1

-- any_due@postgres
-- The same.
select 1 from unnest(cast(:jobs as text[])) as j (job)
 where exists (select 1 from durably_runs where job = j.job and due_at <= {now}) limit 1

-- oldest_due
-- Since when a job's longest due run waits for a worker.
select due_at from durably_runs
 where job = :job and due_at <= {now} and status <> 'running' order by due_at, id limit 1

-- count_runs
-- How many runs of each job are in each status.
select job, status, count(*) from durably_runs group by job, status order by job, status

-- evict
-- A run that was cancelled, and that its holder has neither let go nor renewed in time, frees its key.
update durably_runs set key_slot = null, held_until = null
 where scope = :scope and concurrency_key = :concurrency_key and key_slot >= 0
   and held_until <= {now} and status in ({final})
returning id

-- key_holders
-- The runs that hold a scope's concurrency key; a final one, whose body is still to end, until when at the
-- latest. None of them can leave before the transaction that reads this has parked another run behind it; if
-- one is just leaving, the answer waits for that. (Workers older than key_slot hold a key by running.)
select id, case when status in ({final}) then held_until end
  from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and key_slot >= 0
union all
select id, null from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and status = 'running' and key_slot is null

-- key_holders@postgres
-- The same, locked in the order of their ids, as all do who lock several.
select id, case when status in ({final}) then held_until end
  from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and (key_slot >= 0 or status = 'running')
 order by id for share

-- park
-- A due run whose key is held waits for the key, not for the clock; and if the holder was cancelled, until
-- its hold ends at the latest.
update durably_runs set key_slot = -1, due_at = :until
 where id = :id and status in ('pending', 'waiting') and coalesce(key_slot, -1) = -1

-- park_all@postgres
-- All due runs of the next :look whose keys are held wait for their keys.
with due as (
  select d.* from unnest(cast(:jobs as text[])) as j (job) cross join lateral (
    select id, scope, concurrency_key from durably_runs
     where job = j.job and due_at <= {now} and not (status = 'running' and recoveries >= :skipped)
     order by due_at, id limit :look) as d
), held as (
  select id, scope, concurrency_key, case when status in ({final}) then held_until end as until
    from durably_runs
   where (scope, concurrency_key) in (select scope, concurrency_key from due where concurrency_key is not null)
     and (key_slot >= 0 or status = 'running') and (held_until > {now} or status not in ({final}))
   order by id for share
)
update durably_runs as r set key_slot = -1, due_at = coalesce(held.until, {never})
  from due join held on held.scope = due.scope and held.concurrency_key = due.concurrency_key
 where r.id = due.id and r.status in ('pending', 'waiting') and coalesce(r.key_slot, -1) = -1 and r.due_at <= {now}
returning r.id

-- unpark
-- The key is free: the run that has waited longest behind it is due.
update durably_runs set key_slot = null, due_at = {its_turn}
 where id = (select id from durably_runs
              where scope = :scope and concurrency_key = :concurrency_key and key_slot = -1
              order by created_at, id limit 1 {for_update})
returning id

-- is_parked
-- Whether any run waits behind a key.
select 1 from durably_runs where scope = :scope and concurrency_key = :concurrency_key and key_slot = -1 limit 1

-- heir
-- The run that has waited longest behind a key looks again when a hold on it ends, should the holder be dead.
update durably_runs set due_at = :until
 where due_at > :until and id = (select id from durably_runs
              where scope = :scope and concurrency_key = :concurrency_key and key_slot = -1
              order by created_at, id limit 1 {for_update})
returning id

-- claim
-- CLAIM of state.py: takes a new lease, and its place among those with its key. No row back: another worker
-- was faster, or it holds another place by now than was seen.
update durably_runs
   set status = 'running', lease_owner = :owner, lease_token = :token, generation = generation + 1,
       recoveries = :recoveries, due_at = {due_at}, key_slot = :key_slot, held_until = null,
       started_at = coalesce(started_at, {now}), updated_at = {now}
 where id = :id and status in ({claim_sources}) and due_at <= {now} and coalesce(key_slot, -1) = :seen_slot
returning {run}

-- claimed
-- What a claim whose outcome is unknown did take.
select {run} from durably_runs where lease_token = :token and status = 'running' and lease_owner = :owner

-- progressed
-- Whether a run committed a step since it was last taken up.
select 1 from durably_journal
 where run_id = :run_id and type = 'step:complete'
   and seq > (select max(seq) from durably_journal where run_id = :run_id and type = 'run:start')
 limit 1

-- renew
-- The holder is alive, and so is the body it executes, also of a run that was cancelled meanwhile; its status
-- tells the holder to stop it. No row back: the lease is lost.
update durably_runs
   set due_at = case when status in ('pending', 'running') then {due_at} end,
       held_until = case when held_until is not null then {due_at} end,
       updated_at = case when status = 'running' then {now} else updated_at end
 where id = :run_id and lease_token = :token and (status = 'running' or held_until is not null)
returning id, status

-- renew_all@postgres
-- The same for many leases; each row that does not come back is lost. Whoever locks many runs does so in
-- the order of their ids, so that no two wait for each other.
with given as (
  select * from unnest(cast(:run_id as text[]), cast(:token as text[]), cast(:duration as bigint[])) as g (run_id, token, duration)
), held as (
  select id, lease_token from durably_runs
   where id = any(:run_id) and (status = 'running' or held_until is not null) order by id for update
)
update durably_runs as r
   set due_at = case when r.status in ('pending', 'running') then {now} + given.duration end,
       held_until = case when r.held_until is not null then {now} + given.duration end,
       updated_at = case when r.status = 'running' then {now} else r.updated_at end
  from given join held on held.id = given.run_id and held.lease_token = given.token
 where r.id = given.run_id
returning r.id, r.status

-- let_go
-- The body of a run that was cancelled, failed or handed back before it had ended has ended now. No row back:
-- the hold has lapsed, or the run was taken up again.
update durably_runs
   set held_until = null, key_slot = case when status = 'pending' then key_slot end,
       due_at = case when status = 'pending' then {its_turn} end
 where id = :run_id and lease_token = :token and held_until is not null
returning {run}

-- no_longer_ours
-- Which of these leases' runs their holder is to stop.
select id from durably_runs
 where id = :run_id and (coalesce(lease_token, '') <> :token or status <> 'running')

-- no_longer_ours@postgres
-- The same of many.
select r.id from unnest(cast(:run_id as text[]), cast(:token as text[])) as g (run_id, token)
  join durably_runs as r on r.id = g.run_id
 where coalesce(r.lease_token, '') <> g.token or r.status <> 'running'

-- expire
-- The owner is known to be dead: its leases end now, or a little later where that happened before;
-- never later than they would anyway.
update durably_runs set due_at = {now} + case when recoveries > 8 then 600 else (1 << cast(recoveries as integer)) - 1 end * 1000
 where job = :job and due_at > {now} and due_at < {never} and lease_owner = :owner and status = 'running'
   and due_at > {now} + case when recoveries > 8 then 600 else (1 << cast(recoveries as integer)) - 1 end * 1000
returning id

-- expire_holds
-- The same of the runs that were cancelled while it executed them.
update durably_runs set held_until = {now}, due_at = case when status = 'pending' then {now} end
 where held_until > {now} and lease_owner = :owner
returning {run}

-- owners
-- Who holds leases of a job's runs that have not run out.
select lease_owner from durably_runs
 where job = :job and due_at > {now} and due_at < {never} and status = 'running'
union
select lease_owner from durably_runs where held_until > {now}

-- is_put_off
-- Whether a job has a run that was touched in the future: then the clock was set back since.
select 1 from durably_runs
 where job = :job and due_at > {now} and due_at < {never} and updated_at > {now} + 1000
 limit 1

-- hurry
-- Such runs need not wait until the clock is there again. A live holder renews its lease by then.
update durably_runs
   set due_at = {now} + case when status = 'running' then :lease else 0 end, updated_at = {now}
 where job = :job and due_at > {now} and due_at < {never} and updated_at > {now} + 1000
   and (status = 'pending' and held_until is null or status = 'running' and due_at > {now} + :lease)

-- is_held_too_long
-- Whether a hold was to end later than any does: then the clock was set back since.
select 1 from durably_runs where held_until > {now} + :lease limit 1

-- hurry_holds
-- Such holds end soon. A live holder renews its hold by then.
update durably_runs
   set held_until = {now} + :lease, due_at = case when status = 'pending' then {now} + :lease end
 where held_until > {now} + :lease
returning {run}

-- record
-- The holder's own line in the journal (a step's end, a log line), under the fence.
insert into durably_journal (run_id, seq, at, type, step, step_index, attempt, started_at, data)
select id, (select coalesce(max(seq), 0) + 1 from durably_journal where run_id = :run_id),
       :at, :type, :step, :step_index, generation, :started_at, :data
  from durably_runs
 where id = :run_id and lease_token = :token and status = 'running' {for_update}
returning seq

-- lock_all@postgres
-- Nobody else writes to these runs until we have. Also waits for what became of a connection that was lost.
select id from durably_runs where id = any(cast(:run_id as text[])) order by id for update

-- record_all@postgres
-- Many holders' lines, under the fence; those that do not come back have lost their leases.
with given as (
  select * from unnest(cast(:run_id as text[]), cast(:token as text[]), cast(:at as bigint[]), cast(:type as text[]), cast(:step as text[]),
                       cast(:step_index as bigint[]), cast(:started_at as bigint[]), cast(:data as text[]))
    with ordinality as g (run_id, token, at, type, step, step_index, started_at, data, n)
), held as (
  select id, lease_token, generation from durably_runs where id = any(:run_id) and status = 'running' order by id for update
), line as (
  select given.*, held.generation, row_number() over (partition by given.run_id order by given.n)
         + (select coalesce(max(seq), 0) from durably_journal where run_id = given.run_id) as seq
    from given join held on held.id = given.run_id and held.lease_token = given.token
), written as (
  insert into durably_journal (run_id, seq, at, type, step, step_index, attempt, started_at, data)
  select run_id, seq, at, type, step, step_index, generation, started_at, data from line order by n
)
select n, seq from line

-- hold
-- The fence for what is written beside our own tables: the row stays locked until the commit.
update durably_runs set updated_at = {now}
 where id = :run_id and lease_token = :token and status = 'running'
returning id

-- hold_lent@postgres
-- The same, at the end of a transaction that was lent; and whether it still is the one that was begun for it.
update durably_runs set updated_at = {now}
 where id = :run_id and lease_token = :token and status = 'running'
returning coalesce(current_setting('durably.lent', true), '') = :lent

-- lend@postgres
-- Names a transaction that is lent to a user's function. The name ends with it. And whether it can only read.
select current_setting('transaction_read_only'), set_config('durably.lent', :lent, true), set_config('application_name', :lent, true)

-- end_lent@postgres
-- Ends what an earlier holder of the run has left open: it can commit no more, and its locks stand in our way.
select pg_terminate_backend(pid) from pg_stat_activity
 where usename = current_user and datname = current_database()
   and case when starts_with(application_name, :prefix)
            then cast(split_part(application_name, ' ', 3) as bigint) < :generation end

-- recorded
-- The checkpoint that a record whose outcome is unknown did write.
select seq from durably_journal
 where run_id = :run_id and step = :step and type = 'step:complete' and attempt = :attempt

-- recorded_all@postgres
-- Those of many checkpoints that were written.
select g.n, j.seq
  from unnest(cast(:run_id as text[]), cast(:step as text[]), cast(:attempt as bigint[])) with ordinality as g (run_id, step, attempt, n)
  join durably_journal as j on j.run_id = g.run_id and j.step = g.step and j.type = 'step:complete' and j.attempt = g.attempt

-- runs_of@postgres
-- Some runs as they are.
select {run} from durably_runs where id = any(cast(:run_id as text[]))

-- progress
-- The live state, under the fence; the last value wins.
update durably_runs set progress = :progress, updated_at = {now}
 where id = :run_id and lease_token = :token and status = 'running'
returning id

-- progress_all@postgres
-- The same for many runs.
with given as (
  select * from unnest(cast(:run_id as text[]), cast(:token as text[]), cast(:progress as text[])) as g (run_id, token, progress)
), held as (
  select id, lease_token from durably_runs where id = any(:run_id) and status = 'running' order by id for update
)
update durably_runs as r set progress = given.progress, updated_at = {now}
  from given join held on held.id = given.run_id and held.lease_token = given.token
 where r.id = given.run_id
returning r.id, r.lease_token

-- lock_run
-- A run as it is before it is moved; nobody else moves it meanwhile.
select {run} from durably_runs where id = :run_id {for_update}

-- transition
-- A row of state.py as one guarded UPDATE; no row back means refused.
update durably_runs
   set status = '{target}', due_at = {due}, key_slot = {key_slot}, held_until = {held_until},
       output = :output, error = :error, progress = coalesce(:progress, progress),
       ended_at = {ended_at}, updated_at = {now}
 where id = :run_id and status in ({sources}) {fence}
returning {run}

-- transition_all@postgres
-- A fenced row of state.py for many runs, with their lines; those that do not come back are refused.
with given as (
  select * from unnest(cast(:run_id as text[]), cast(:token as text[]), cast(:delay as bigint[]), cast(:body_runs as boolean[]),
                       cast(:output as text[]), cast(:error as text[]), cast(:progress as text[]))
    with ordinality as g (run_id, token, delay, body_runs, output, error, progress, n)
), held as (
  select id, lease_token from durably_runs where id = any(:run_id) and status in ({sources}) order by id for update
), moved as (
  update durably_runs as r
     set status = '{target}', due_at = {later}, key_slot = {later_key_slot}, held_until = {later_held_until},
         output = given.output, error = given.error,
         progress = coalesce(given.progress, r.progress), ended_at = {ended_at}, updated_at = {now}
    from given join held on held.id = given.run_id and held.lease_token = given.token
   where r.id = given.run_id
  returning given.n, {r.run}
), line as (
  insert into durably_journal (run_id, seq, at, type, attempt, started_at, data)
  select id, (select coalesce(max(seq), 0) + 1 from durably_journal where run_id = moved.id),
         updated_at, '{event}', generation, started_at, error
    from moved
  returning run_id, seq
)
select moved.n, line.seq, {moved.run} from moved join line on line.run_id = moved.id order by moved.n

-- forget_steps
-- A run that is completed needs its checkpoints no more; the lines stay, for the numbers have no gap.
update durably_journal set data = null where run_id = :run_id and type = 'step:complete'

-- forget_steps_all@postgres
-- The same of many.
update durably_journal set data = null where run_id = any(cast(:run_id as text[])) and type = 'step:complete'

-- is_line
-- Whether a try of unknown outcome wrote its line.
select 1 from durably_journal where run_id = :run_id and seq = :seq and type = :type

-- append
-- A change of state's line in the journal; the row is locked by the transition before it.
insert into durably_journal (run_id, seq, at, type, attempt, started_at, data)
select :run_id, coalesce(max(seq), 0) + 1, :at, :type, :attempt, :started_at, :data
  from durably_journal where run_id = :run_id
returning seq

-- append_first
-- A new run's first line.
insert into durably_journal (run_id, seq, at, type, attempt) values (:id, 1, :at, 'run:trigger', 0)

-- run
select {run} from durably_runs where id = :run_id

-- state
-- A run and the number of its newest line, as they were at one moment.
select {run}, (select max(seq) from durably_journal where run_id = :run_id) from durably_runs where id = :run_id

-- delays
-- How long until a run is due, and until the body of a run that moved on has ended at the latest.
select due_at - {now}, held_until - {now} from durably_runs where id = :run_id

-- blockers
-- The runs that hold a scope's concurrency key, as key_holders, but nothing is locked.
select id, status from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and key_slot >= 0
union all
select id, status from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and status = 'running' and key_slot is null

-- executed
-- How many runs of which job each worker executes whose leases have not run out.
select lease_owner, job, count(*) from durably_runs
 where status = 'running' and due_at > {now} group by lease_owner, job order by 1, 2

-- in_progress
-- The runs that others execute and that say how far they are; without their inputs.
select id, job, status, '', null, null, labels, progress, null, null, due_at, lease_owner, null,
       generation, recoveries, created_at, started_at, ended_at, updated_at, scope, key_slot, held_until
  from durably_runs where status = 'running' and progress is not null and lease_owner <> :owner

-- decided
-- All that a resume needs after a number: the steps that are committed, the failures that the job has seen,
-- and whether a retry has opened those again.
select seq, type, step, step_index, data from durably_journal
 where run_id = :run_id and seq > :after and type in ('step:complete', 'step:fail', 'run:retry')
 order by seq limit :limit

-- checkpoint
-- One committed step.
select step_index, data from durably_journal
 where run_id = :run_id and step = :step and type = 'step:complete'

-- journal
-- A run's history after a number. (The last column: see below. Reading a file needs no such bound in bytes.)
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at, j.data, r.job, r.labels,
       case when j.type = 'run:complete' then r.output end, r.scope, 0
  from durably_journal as j left join durably_runs as r on r.id = j.run_id
 where j.run_id = :run_id and j.seq > :after
 order by j.seq limit :limit

-- journal@postgres
-- The same, but no more than :size bytes, or one line; and how many lines there were to read.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at, j.data, r.job, r.labels,
       case when j.type = 'run:complete' then r.output end, r.scope, j.count
  from (select *, count(*) over () as count,
               sum(coalesce(octet_length(data), 0)) over (order by seq) - coalesce(octet_length(data), 0) as before
          from (select * from durably_journal where run_id = :run_id and seq > :after order by seq limit :limit) as f) as j
  left join durably_runs as r on r.id = j.run_id
 where j.before < :size
 order by j.seq

-- journal_of
-- A run's lines of two types after a number.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at, j.data, r.job, r.labels, null, r.scope
  from durably_journal as j join durably_runs as r on r.id = j.run_id
 where j.run_id = :run_id and j.seq > :after and j.type in (:type, :other_type)
 order by j.seq limit :limit

-- last_but_lines
-- The number of a run's newest line up to one, of those that are no log lines.
select seq from durably_journal
 where run_id = :run_id and seq <= :newest and type <> 'log:write'
 order by seq desc limit 1

-- journal_sizes
-- How long each of a run's lines of two types is.
select seq, coalesce({octets}(data), 0) from durably_journal
 where run_id = :run_id and seq > :after and type in (:type, :other_type)
 order by seq limit :limit

-- tail
-- What was committed from a position on, over all runs; without the outputs, which may be large.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at,
       case when j.type <> 'step:complete' then j.data end, r.job, r.labels, null, r.scope
  from durably_journal as j left join durably_runs as r on r.id = j.run_id
 where j.position >= :position order by j.position limit :limit

-- tail@postgres
-- The same. Positions are given when a line is written, and lines are seen when they are committed, which is
-- not in that order: so what was missing before is looked for again.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at,
       case when j.type <> 'step:complete' then j.data end, r.job, r.labels, null, r.scope
  from (select f.* from (select * from durably_journal where position >= :position order by position limit :limit) as f
        union all
        select late.* from unnest(cast(:first as bigint[]), cast(:last as bigint[])) as m (first, last)
          join durably_journal as late on late.position between m.first and m.last) as j
  left join durably_runs as r on r.id = j.run_id
 order by j.position

-- writers@postgres
-- The transactions at work that have written to the journal, or are about to: each locked the table before it
-- was given a position, and unlocks it when what it did can be seen.
select virtualtransaction from pg_locks
 where locktype = 'relation' and mode = 'RowExclusiveLock' and relation = cast('durably_journal' as regclass)
   and database = (select oid from pg_database where datname = current_database())

-- end_of_tail
-- The position of the newest line.
select coalesce(max(position), 0) from durably_journal

-- missing@postgres
-- The positions that lack a line among the newest ten thousand: somebody may be about to commit them.
select newest.before + 1, newest.position - 1
  from (select position, lag(position, 1, greatest(:end - 10000, 0)) over (order by position) as before
          from durably_journal where position > :end - 10000 and position <= :end) as newest
 where newest.before < newest.position - 1

-- lock_positions@postgres
-- One process at a time sets the sequence, so that it never goes back.
select pg_advisory_xact_lock(7289343, 2)

-- set_positions@postgres
-- If the sequence that gives positions is behind the lines that are there, it goes on after them.
select setval(s.name, j.newest)
  from (select cast(pg_get_serial_sequence('durably_journal', 'position') as regclass) as name) as s,
       (select max(position) as newest from durably_journal) as j
 where j.newest > coalesce(pg_sequence_last_value(s.name), 0)

-- forget_journal
-- All of a deleted run's lines but the one that tells of the deletion.
delete from durably_journal where run_id = :run_id and type <> 'run:delete'

-- delete_run
-- Only a final run can go whose body has ended, too; no row back means refused.
delete from durably_runs
 where id = :run_id and status in ({final}) and (held_until is null or held_until <= {now})
returning {run}

-- forget_deletions
-- Lines that tell of deletions are kept a while for watchers; never the newest, so that no position is used twice.
delete from durably_journal
 where type = 'run:delete' and at < :before and position < (select max(position) from durably_journal)

-- purgeable
-- Final runs that ended before a time, again checked when they are deleted.
select id from durably_runs
 where ended_at < {before} and (held_until is null or held_until <= {now})
 order by ended_at limit :limit

-- quiet_for
-- How long ago the newest line of the journal was written.
select {now} - at from durably_journal order by position desc limit 1

-- purgeable@postgres
-- The same, but those that another purge is deleting.
select id from durably_runs
 where ended_at < {before} and (held_until is null or held_until <= {now})
 order by ended_at limit :limit for update skip locked
