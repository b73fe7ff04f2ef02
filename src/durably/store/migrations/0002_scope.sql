-- A run belongs to a scope, such as a tenant; '' is none. The server stamps it on the run when it is
-- triggered, and no client chooses it. Keys are unique within their scope.

alter table durably_runs add column scope text not null default '';

drop index durably_runs_idempotency;
create unique index durably_runs_idempotency on durably_runs (job, scope, idempotency_key)
  where idempotency_key is not null;
drop index durably_runs_busy;
create unique index durably_runs_busy on durably_runs (scope, concurrency_key)
  where status = 'running' and concurrency_key is not null;
drop index durably_runs_parked;
create index durably_runs_parked on durably_runs (scope, concurrency_key, created_at, id)
  where due_at = 9007199254740991;
-- What watchers and metrics read: the few that run now, among all that ever did.
create index durably_runs_running on durably_runs (id) where status = 'running';
-- A tenant's own runs, newest first; without tenants it costs nothing.
create index durably_runs_scope on durably_runs (scope, id) where scope <> '';
