-- Every statement, by name. One sentence, then the SQL. {braces} are filled in from state.py and by
-- the database's dialect when the file is loaded; values are always parameters.

-- enqueue
-- A new run; no row back means that its scope knows its idempotency key (or, on a replay, its id).
insert into durably_runs (id, job, status, input, labels, idempotency_key, concurrency_key, scope, due_at, created_at, updated_at)
values (:id, :job, 'pending', :input, :labels, :idempotency_key, :concurrency_key, :scope, :now, :now, :now)
on conflict do nothing
returning {run}

-- enqueued
-- The run that a conflicting insert met.
select {run} from durably_runs
 where id = :id or (job = :job and scope = :scope and idempotency_key = :idempotency_key)

-- due
-- One job's runs that want a worker, the longest due first; but none that lapsed so often before.
select due_at, id, status, recoveries, scope, concurrency_key
  from durably_runs
 where job = :job and due_at <= :now and not (status = 'running' and recoveries >= :skipped)
 order by due_at, id
 limit :limit

-- is_due
-- Whether a job has any run that wants a worker.
select 1 from durably_runs where job = :job and due_at <= :now limit 1

-- oldest_due
-- Since when a job's longest due run waits for a worker.
select due_at from durably_runs
 where job = :job and due_at <= :now and status <> 'running' order by due_at, id limit 1

-- count_runs
-- How many runs of each job are in each status.
select job, status, count(*) from durably_runs group by job, status order by job, status

-- busy
-- The run that holds a scope's concurrency key now.
select id from durably_runs
 where scope = :scope and concurrency_key = :concurrency_key and status = 'running'

-- park
-- A due run whose key is busy waits for the key, not for the clock.
update durably_runs set due_at = {parked} where id = :id and status = 'pending'

-- unpark
-- The key is free: the run that has waited longest behind it is due.
update durably_runs set due_at = created_at
 where id = (select id from durably_runs
              where scope = :scope and concurrency_key = :concurrency_key and due_at = {parked}
              order by created_at, id limit 1)

-- claim
-- CLAIM of state.py: takes a new lease. No row back: somebody else was faster.
update durably_runs
   set status = 'running', lease_owner = :owner, lease_token = :token, generation = generation + 1,
       recoveries = :recoveries, due_at = :due_at, started_at = coalesce(started_at, :now), updated_at = :now
 where id = :id and status in ({claim_sources}) and due_at <= :now
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
-- The holder is alive; no row back means that the lease is lost.
update durably_runs set due_at = :due_at, updated_at = :now
 where id = :run_id and lease_token = :token and status = 'running'
returning id

-- expire
-- The owner is known to be dead: its leases end now, or a little later where that happened before;
-- never later than they would anyway.
update durably_runs set due_at = :due_at + case when recoveries > 8 then 600 else (1 << cast(recoveries as integer)) - 1 end * 1000
 where job = :job and due_at > :due_at and due_at < {parked} and lease_owner = :owner and status = 'running'
   and due_at > :due_at + case when recoveries > 8 then 600 else (1 << cast(recoveries as integer)) - 1 end * 1000
returning id

-- owners
-- Who holds leases of a job's runs that have not run out.
select distinct lease_owner from durably_runs
 where job = :job and due_at > :now and due_at < {parked} and status = 'running'

-- is_put_off
-- Whether a job has a run that was touched in the future: then the clock was set back since.
select 1 from durably_runs
 where job = :job and due_at > :now and due_at < {parked} and updated_at > :now + 1000
 limit 1

-- hurry
-- Such runs need not wait until the clock is there again. A live holder renews its lease by then.
update durably_runs
   set due_at = :now + case when status = 'running' then :lease else 0 end, updated_at = :now
 where job = :job and due_at > :now and due_at < {parked} and updated_at > :now + 1000
   and (status = 'pending' or status = 'running' and due_at > :now + :lease)

-- record
-- The holder's own line in the journal (a step's end, a log line), under the fence.
insert into durably_journal (run_id, seq, at, type, step, step_index, attempt, started_at, data)
select id, (select coalesce(max(seq), 0) + 1 from durably_journal where run_id = :run_id),
       :at, :type, :step, :step_index, generation, :started_at, :data
  from durably_runs
 where id = :run_id and lease_token = :token and status = 'running' {for_update}
returning seq

-- hold
-- The fence for what is written beside our own tables: the row stays locked until the commit.
update durably_runs set updated_at = :now
 where id = :run_id and lease_token = :token and status = 'running'
returning id

-- recorded
-- The checkpoint that a record whose outcome is unknown did write.
select seq from durably_journal
 where run_id = :run_id and step = :step and type = 'step:complete' and attempt = :attempt

-- progress
-- The live state, under the fence; the last value wins.
update durably_runs set progress = :progress, updated_at = :now
 where id = :run_id and lease_token = :token and status = 'running'
returning id

-- transition
-- A row of state.py as one guarded UPDATE; no row back means refused.
update durably_runs
   set status = '{target}', due_at = :due_at, output = :output, error = :error,
       progress = coalesce(:progress, progress), ended_at = :ended_at, updated_at = :now
 where id = :run_id and status in ({sources}) {fence}
returning {run}

-- moved
-- The line of a move whose outcome is unknown.
select seq from durably_journal where run_id = :run_id and type = :type and at = :at order by seq desc limit 1

-- append
-- A change of state's line in the journal; the row is locked by the transition before it.
insert into durably_journal (run_id, seq, at, type, attempt, started_at, data)
select :run_id, coalesce(max(seq), 0) + 1, :at, :type, :attempt, :started_at, :data
  from durably_journal where run_id = :run_id
returning seq

-- append_first
-- A new run's first line.
insert into durably_journal (run_id, seq, at, type, attempt) values (:id, 1, :now, 'run:trigger', 0)

-- run
select {run} from durably_runs where id = :run_id

-- state
-- A run and the number of its newest line, as they were at one moment.
select {run}, (select max(seq) from durably_journal where run_id = :run_id) from durably_runs where id = :run_id

-- in_progress
-- The runs that others execute and that say how far they are; without their inputs.
select id, job, status, '', null, null, labels, progress, null, null, due_at, lease_owner, null,
       generation, recoveries, created_at, started_at, ended_at, updated_at, scope
  from durably_runs where status = 'running' and progress is not null and lease_owner <> :owner

-- count_steps
-- How many steps of a run are committed.
select count(*) from durably_journal where run_id = :run_id and type = 'step:complete'

-- checkpoints
-- All that a resume needs, in one look.
select step, step_index, data from durably_journal
 where run_id = :run_id and type = 'step:complete' order by seq

-- journal
-- A run's history after a number.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at, j.data, r.job, r.labels,
       case when j.type = 'run:complete' then r.output end, r.scope
  from durably_journal as j left join durably_runs as r on r.id = j.run_id
 where j.run_id = :run_id and j.seq > :after
 order by j.seq limit :limit

-- journal_of
-- A run's lines of two types after a number.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at, j.data, r.job, r.labels, null, r.scope
  from durably_journal as j join durably_runs as r on r.id = j.run_id
 where j.run_id = :run_id and j.seq > :after and j.type in (:type, :other_type)
 order by j.seq limit :limit

-- tail
-- What was committed after a position, over all runs; without the outputs, which may be large.
select j.position, j.run_id, j.seq, j.at, j.type, j.step, j.step_index, j.attempt, j.started_at,
       case when j.type <> 'step:complete' then j.data end, r.job, r.labels, null, r.scope
  from durably_journal as j left join durably_runs as r on r.id = j.run_id
 where j.position > :position order by j.position limit :limit

-- end_of_tail
-- The position of the newest line.
select coalesce(max(position), 0) from durably_journal

-- forget_journal
-- All of a deleted run's lines but the one that tells of the deletion.
delete from durably_journal where run_id = :run_id and type <> 'run:delete'

-- delete_run
-- Only a final run can go; no row back means refused.
delete from durably_runs where id = :run_id and status in ({final})
returning {run}

-- forget_deletions
-- Lines that tell of deletions are kept a while for watchers; never the newest, so that no position is used twice.
delete from durably_journal
 where type = 'run:delete' and at < :before and position < (select max(position) from durably_journal)

-- purgeable
-- Final runs that ended before a time, again checked when they are deleted.
select id from durably_runs where ended_at < :before order by ended_at limit :limit
