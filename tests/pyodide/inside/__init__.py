"""What runs inside Pyodide."""
