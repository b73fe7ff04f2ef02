-- A run that is cancelled is over at once, but its body may still run: until the body has ended, or the
-- lease of its holder, neither the run nor its concurrency key goes to another.
--
-- held_until: until when at the latest (null: no body runs that should not).
-- key_slot: the place that the run holds among those with its concurrency key (0: the only one),
-- -1 while it is parked behind its key, null while it has nothing to do with it.

alter table durably_runs add column key_slot bigint;
alter table durably_runs add column held_until bigint;

update durably_runs set key_slot = 0 where status = 'running' and concurrency_key is not null;
update durably_runs set key_slot = -1 where due_at = 9007199254740991;

drop index durably_runs_parked;
create index durably_runs_parked on durably_runs (scope, concurrency_key, created_at, id)
  where key_slot = -1;
-- One run in each place: promised by the database, not by the code. durably_runs_busy stays beside it for
-- workers of older versions, which know no places.
create unique index durably_runs_place on durably_runs (scope, concurrency_key, key_slot)
  where key_slot >= 0;
create index durably_runs_held on durably_runs (held_until) where held_until is not null;
