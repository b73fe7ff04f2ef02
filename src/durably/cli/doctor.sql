-- What `durably doctor` asks a database about its runs, read-only. Statements by name, as in
-- store/queries.sql; {later} and {kind} are words in which the databases differ.

-- owners
select lease_owner as owner, count(*) as runs, max(due_at) as until
  from durably_runs where status = 'running' group by lease_owner order by 1

-- overdue
-- Due for long, and nobody took them. (A run that was handed back is due since it was created.)
select job, count(*) as runs, min({later}(due_at, updated_at)) as since
  from durably_runs where status in ('pending', 'waiting') and {later}(due_at, updated_at) < :before
 group by job order by 1

-- busy
-- How many runs of which job are executed by workers whose leases have not run out.
select job, count(*) as runs from durably_runs
 where status = 'running' and due_at > :now group by job order by job

-- abandoned
-- Parked behind a concurrency key that no active run holds.
select waiting.id, waiting.concurrency_key as key
  from durably_runs as waiting
 where waiting.due_at = :never
   and not exists (select 1 from durably_runs as holder
                    where holder.scope = waiting.scope
                      and holder.concurrency_key = waiting.concurrency_key
                      and holder.due_at is not null and holder.due_at <> :never)
 order by 1

-- poisoned
select id, job from durably_runs
 where status = 'failed' and {kind} = 'poisoned' order by 1

-- latest
select max(updated_at) as at from durably_runs
