"""Schedules at work: their store, and the task that fires them. Only the front process has them."""
