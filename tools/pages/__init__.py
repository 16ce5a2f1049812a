"""What the docs generate when they are built: `docs_hooks.py` puts it among the written pages."""
