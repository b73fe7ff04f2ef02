"""Moving runs and journals to another database: ``tables`` (what is copied, and its checksums), ``sides``
(what a database must be able to do for it), ``sqlite`` and ``postgres``, and ``copy``, the act itself."""
