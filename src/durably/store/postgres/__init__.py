"""PostgreSQL, through asyncpg: many processes on many machines."""
