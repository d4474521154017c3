"""Order, restart, schedule: which step runs, when, and whether it has to.

The files:

    cli         the door: a command in a process of its own, and what a stop of it leaves: nothing
    commands    the command line
    exits       its exit codes
    curriculum  the main flow: every step in order, skipping what is done
    preflight   a recipe loaded and checked, its sources listed
    status      which steps are done, stale or missing
    home        the home folder of a recipe: what lies where, receipts
    scratch     what a home holds only while a run works: its lock, scratch files, Prefect's temporary server
    lease       who works on a lake in a bucket, told to other homes
    deliver     a delivery is told: to the home, and to a Prefect server
    deploy      recipes on a Prefect server: schedules, deliveries, restarts, notifications
    openlineage  what a step read and wrote, told in the words of OpenLineage
    job         what a step works with
    steps/      a file a step
    progress    what a step tells while it runs, and the limit on its Spark jobs
    sizes       the tables of `flows model`
    summary     the tables that a run ends with
    report/     the report: one HTML page
    ledger      ops.ledger and ops.metrics, filled while a run trains
    tracking    the training run on MLflow
    ui          MLflow's page over the runs of a home
    publish     shards, training run and report, sent to an object store
    recipes/    the default recipe and larger ones
    numbers     numbers as people read them
"""

STEPS = ("ingest", "learn", "measure", "dedup", "decontaminate", "edits", "gate", "judge",
         "tokenise", "mixture", "shard", "train", "evaluate", "report", "publish")  # fmt: skip
