"""Says what a launch will do, and what will stop it, before a GPU is asked for. Nothing else imports this package."""
