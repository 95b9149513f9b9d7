"""What each `aht-pipeline` command does; `cli` names them, and imports the one that is called."""
