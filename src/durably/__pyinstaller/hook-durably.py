"""The SQL and other data of the package, and the module that is imported by name."""

from PyInstaller.utils.hooks import collect_data_files  # pyright: ignore[reportMissingModuleSource]

datas = collect_data_files("durably")
hiddenimports = ["durably.store.postgres.store"]
