"""The workloads. Each module has `run(env, scale, results)`."""
