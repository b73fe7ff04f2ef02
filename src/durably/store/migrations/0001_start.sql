-- Two tables hold everything. A row of durably_runs is a run as it stands now; the rows of
-- durably_journal with its id are how it came there, numbered 1, 2, 3 ... without a gap: its changes
-- of state, its steps (the step:complete rows are its checkpoints) and its kept log lines.
-- Times are milliseconds since 1970 UTC; values are ASCII-escaped JSON text.

create table durably_runs (
  id text primary key,
  job text not null,
  status text not null
    check (status in ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
  input text not null,
  output text,
  error text,
  labels text not null,
  progress text,
  idempotency_key text,
  concurrency_key text,
  due_at bigint,                 -- when it next wants a worker (state.py); null once final
  lease_owner text,
  lease_token text,              -- kept when the run ends: it tells whose end it was
  generation bigint not null default 0,
  recoveries bigint not null default 0,
  created_at bigint not null,
  started_at bigint,
  ended_at bigint,
  updated_at bigint not null,
  check ((due_at is null) = (status in ('completed', 'failed', 'cancelled')))
);

create unique index durably_runs_idempotency on durably_runs (job, idempotency_key)
  where idempotency_key is not null;
-- One running run per concurrency key: promised by the database, not by the code.
create unique index durably_runs_busy on durably_runs (concurrency_key)
  where status = 'running' and concurrency_key is not null;
create index durably_runs_due on durably_runs (job, due_at, id) where due_at is not null;
create index durably_runs_parked on durably_runs (concurrency_key, created_at, id)
  where due_at = 9007199254740991;
create index durably_runs_ended on durably_runs (ended_at) where ended_at is not null;

create table durably_journal (
  position {serial} primary key, -- the order of commits over all runs: what a watcher follows
  run_id text not null,
  seq bigint not null,
  at bigint not null,
  type text not null,
  step text,
  step_index bigint,
  attempt bigint not null,
  started_at bigint,
  data text
);

create unique index durably_journal_run on durably_journal (run_id, seq);
-- A step commits once. The fence sees to it; this is the second line of defence.
create unique index durably_journal_checkpoint on durably_journal (run_id, step)
  where type = 'step:complete';
create index durably_journal_deletions on durably_journal (at) where type = 'run:delete';
