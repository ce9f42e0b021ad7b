"""The zygote: the process that loads the guests, and forks, kills and reaps the workers."""
