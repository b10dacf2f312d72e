"""The examples in the help of each command."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "dev": (
        "jobs-grpc dev",
        "JOBS_DATA_DIR=/tmp/jobs JOBS_LISTEN=127.0.0.1:50052 jobs-grpc dev",
    ),
    "serve": (
        "JOBS_DATABASE_URL=postgresql://jobs_request@db/jobs jobs-grpc serve",
        "jobs-grpc serve --workers 4",
    ),
    "migrate": (
        "JOBS_OWNER_DATABASE_URL=postgresql://jobs_owner@db/jobs jobs-grpc migrate",
        "jobs-grpc migrate --request-role jobs_request",
    ),
    "devices import": (
        "jobs-grpc devices import fleet.csv --tenant acme",
        "gunzip -c fleet.csv.gz | jobs-grpc devices import - --tenant acme",
    ),
    "create": (
        "jobs-grpc create --type reboot --group north --job-id reboot-1",
        'jobs-grpc create --type update --all --params \'{"version": "2.1"}\' \\\n'
        "  --stage 5% --stage rest --min-succeeded 90 --pause-at 10%",
    ),
    "list": (
        "jobs-grpc list --status PAUSED IN_PROGRESS --created-from 7d",
        "jobs-grpc list -o csv --columns job_id,status,total_executions",
    ),
    "get": (
        "jobs-grpc get reboot-1",
        "jobs-grpc get reboot-1 --status FAILED --limit 100",
    ),
    "export": (
        "jobs-grpc export reboot-1 --to reboot-1.csv",
        "jobs-grpc export reboot-1 -o jsonl --status FAILED | jq .failure_code",
    ),
    "attempts": (
        "jobs-grpc attempts reboot-1 device-0003",
        "jobs-grpc attempts reboot-1 device-0003 --json",
    ),
    "device": (
        "jobs-grpc device device-0003",
        "jobs-grpc device device-0003 --status FAILED",
    ),
    "pause": (
        "jobs-grpc pause update-1 --reason 'too many failures'",
        "jobs-grpc pause update-1 --etag 5",
    ),
    "resume": (
        "jobs-grpc resume update-1",
        "jobs-grpc resume update-1 --etag 5",
    ),
    "advance": (
        "jobs-grpc advance update-1",
        "jobs-grpc advance update-1 --stage 1",
    ),
    "approve": (
        "jobs-grpc approve update-1 0",
        "jobs-grpc approve update-1 0 --comment 'canary looks good'",
    ),
    "update": (
        "jobs-grpc update update-1 --max-in-progress 200",
        "jobs-grpc update update-1 --rollout rollout.yaml",
    ),
    "cancel": (
        "jobs-grpc cancel reboot-1 reboot-2 --reason 'wrong group'",
        "jobs-grpc cancel reboot-1 --device device-0003 --force",
    ),
    "failures": (
        "jobs-grpc failures update-1",
        "jobs-grpc failures update-1 --status FAILED TIMED_OUT -o csv",
    ),
    "retry": (
        "jobs-grpc retry update-1 --status FAILED --failure-code FLASH",
        "jobs-grpc retry update-1 --status FAILED TIMED_OUT --expires-in-hours 24",
    ),
    "delete": (
        "jobs-grpc delete reboot-1 reboot-2",
        "jobs-grpc delete update-1 --yes",
    ),
    "watch": (
        "jobs-grpc watch update-1",
        "jobs-grpc watch update-1 --json --timeout 3600",
    ),
    "context list": (
        "jobs-grpc context list",
        "jobs-grpc context list --json",
    ),
    "context use": (
        "jobs-grpc context use prod",
        "jobs-grpc context use local",
    ),
    "context show": (
        "jobs-grpc context show",
        "jobs-grpc context show prod",
    ),
    "context set": (
        "jobs-grpc context set local --server 127.0.0.1:50051 --tenant demo",
        "jobs-grpc context set prod --server jobs.example.com:443 --tls \\\n"
        "  --tenant acme --token-file ~/.prod-token",
    ),
    "context delete": (
        "jobs-grpc context delete prod",
        "jobs-grpc context delete local",
    ),
    "completion": (
        'eval "$(jobs-grpc completion bash)"',
        "jobs-grpc completion fish > ~/.config/fish/completions/jobs-grpc.fish",
    ),
    "health": (
        "jobs-grpc health",
        "jobs-grpc health --server jobs.example.com:443 --tls --timeout 2",
    ),
    "doctor": (
        "jobs-grpc doctor",
        "jobs-grpc doctor --strict --json",
    ),
    "whoami": (
        "jobs-grpc whoami",
        "jobs-grpc whoami --context prod --json",
    ),
    "simulate": (
        "jobs-grpc simulate --tenant demo --devices 1000",
        "jobs-grpc simulate --tenant demo --devices 300 --bug 0.08:FLASH --for 60",
    ),
}
