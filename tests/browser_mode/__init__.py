"""Jobs in a page: Pyodide, the origin-private file system, tabs. In a real Chromium."""
