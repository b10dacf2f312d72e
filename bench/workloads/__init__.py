"""What is measured, a module a theme. Each has `run(env, scale, results)`."""
