"""Help texts, in a separate module because other modules are slow to import."""

OVERVIEW = """\
usage: lightning-unlearn COMMAND [--config FILE ...] [--KEY VALUE ...]

Machine unlearning in language models that were trained in stages.

commands:
  fit        train the stages of one path, then unlearn the forget stage
  validate   evaluate a stored model, without training
  study      run paths x methods x seeds x settings, training each prefix once; tables and figures
  status     show which tasks of a study or run are done, running, failed or left
  report     write a page with curves, tables and figures of one or several studies or runs
  plan       estimate memory, work, time and disk space of a run, without GPU and weights
  prepare    make data sets for stages: convert rows; a model writes refusals, solutions, ...

lightning-unlearn COMMAND --help prints the options.  --version prints the version.

first steps:
  lightning-unlearn fit --config configs/demo.yaml
  lightning-unlearn study --config configs/demo-study.yaml
  tensorboard --logdir runs/demo"""

_KEYS = """\
configuration:
  --config FILE                YAML file; may be given several times, later files override earlier
  --print_config               print the complete configuration with defaults, and exit
  --help-all                   print every key with its type and default (slow: imports torch)

most used keys (each is also a YAML key; the command line overrides the files):
  --seed_everything N          seed of all random numbers
  --trainer.callbacks+=NAME    add GA, NPO, SimNPO, StageNegation, Rewind, Replay, Splice, ...,
                               a monitor, or your own module.Class; a method added here replaces
                               the method of the file
  --trainer.store DIR          stage store; runs that share a store train each prefix once
  --trainer.default_root_dir DIR   folder of the runs
  --trainer.accelerator cpu|gpu    --trainer.devices N    --trainer.strategy ddp
  --trainer.checkpoint_steps N     write a checkpoint every N steps; or .checkpoint_minutes (10)
  --trainer.snapshot_steps N       store the model inside stages, for Splice
  --trainer.precision 32-true|bf16-true|bf16-mixed
  --model.base NAME            model folder, hub name, demo:tiny-llama, or a LoRA adapter (PEFT)
  --model.lora.rank N          --model.lora null trains all weights
  --model.lora.target_modules '[q_proj, v_proj]'
  --model.quantization nf4     base model with 4 bits per weight, as in QLoRA; needs bitsandbytes
  --model.gradient_checkpointing true    --model.save_merged true    --model.compile true
  --data.order '[a, b, c]'     the path; or --data.position P, or --data.permutation K
  --data.forget STAGE          the forget stage, which is unlearned
  --data.learned '[a, b]'      stages that model.base has learned already; they are not trained
  --data.oracle true           train and evaluate the oracle: the path without the forget stage
  --oracle.base MODEL          compare with a retrained model that exists: folder, hub name, adapter
  --data.stages.STAGE.source FILE    .lr .epochs .steps .batch_size .schedule .prompt .answer ...
  --data.unlearn.lr LR         .epochs .steps .batch_size .schedule ...
  --data.retain '[a, b]'       rows of methods with retain_weight; or .source FILE .prompt .answer
  --data.alternates COLUMN     answers to prefer to the forget answers; or .source FILE ...
  --data.micro_batch_size N    sequences per forward pass; changes speed, memory and rounding"""

HELP = {
    "fit": f"""\
usage: lightning-unlearn fit --config FILE [--config FILE ...] [--KEY VALUE ...]

Train the stages of one path that are not stored yet, then unlearn the forget stage.

{_KEYS}

examples:
  lightning-unlearn fit --config configs/demo.yaml --data.position 1
  lightning-unlearn fit --config configs/demo.yaml --trainer.callbacks+=SimNPO
  lightning-unlearn fit --config configs/demo.yaml --data.order '[safety, math, inst, tofu]'""",
    "validate": f"""\
usage: lightning-unlearn validate --config FILE [--stage STAGE] [--KEY VALUE ...]

Evaluate the monitors on a stored model, without training.

  --stage STAGE                the stage after which to evaluate: base (the model from which the
                               path starts), a stage of the path, or unlearn; default: the last one

{_KEYS}

examples:
  lightning-unlearn validate --config configs/demo.yaml --stage base
  lightning-unlearn validate --config configs/demo.yaml --data.position 1 --stage math""",
    "study": """\
usage: lightning-unlearn study --config FILE [--config FILE ...] [options] [--KEY VALUE ...]

Run paths x methods x seeds x settings, training each prefix once. Then write records, tables and
figures. To resume a stopped study, run the same command again.

options:
  --dry-run                    print the plan as a tree and exit, without training or writing
  --only KEY=VALUE,...         run selected trials: path (number, or stages joined by -), position,
                               method, seed, swept keys; values of one key are alternatives

keys of a study file:
  --name NAME                  name of the study in its records; default: name of the file
  --fit FILE                   a fit configuration, relative to the study file; a list is merged;
                               in the file it may also be the configuration itself
  --paths positions            move the forget stage from first to last
  --paths permutations         every order of the stages
  --paths '[[a, b], [b, a]]'   the listed paths
  --methods.LABEL.callback NAME      unlearning method: name, or class_path and init_args
  --methods.LABEL.unlearn.lr LR      change of the unlearning recipe for this method
  --seeds '[0, 1, 2]'          run every trial once per seed; default: seed of the fit configuration
  --sweep.data.unlearn.lr '[1e-5, 5e-5]'   run every trial once per value of any key of fit, and
                               once per combination of several keys
  --oracle true                also train and evaluate the oracle of each path
  --overrides.KEY VALUE        change the fit configuration: --overrides.data.unlearn.lr 1e-4
  --folder DIR                 folder of the results; default: trainer.default_root_dir
  --figures false              write tables only; the report command draws figures and page

parallel execution:
  --workers N                  N processes on this machine, each with its own GPUs
  --gpus_per_worker N          number of GPUs per worker, or per task on Ray
  --ray ADDRESS                a Ray cluster, or auto; its machines share the study's folders
  --cpus_per_worker N          number of CPU cores per task on Ray

  On a CPU, results are equal to the byte with the same machine, versions and number of threads;
  otherwise they are equal up to rounding. Workers divide the cores, so the number of workers
  changes the number of threads of each. OMP_NUM_THREADS=1 in the environment gives the same bytes
  with any number of workers.

examples:
  lightning-unlearn study --config configs/demo-study.yaml
  lightning-unlearn study --config configs/demo-study.yaml --only path=4,method=NPO
  lightning-unlearn study --config configs/demo-seeds.yaml --workers 2""",
    "status": """\
usage: lightning-unlearn status FOLDER

Show which tasks of a study or a run are done, running (machine and step), failed (reason) or left.

example:
  lightning-unlearn status runs/demo""",
    "report": """\
usage: lightning-unlearn report FOLDER [FOLDER ...] [--out FOLDER] [--paper]

Write the report of a study or a run: a page, tables as CSV and Markdown, and figures. The report of
several studies or runs compares them. The report of an unfinished study contains its finished runs
and names the missing ones. Nothing is trained, and torch is not needed.

options:
  --out FOLDER                 folder of the report; default: FOLDER/report for one study or run,
                               report-compared for several
  --paper                      also draw those figures of the paper for which the study has runs

examples:
  lightning-unlearn report runs/demo
  lightning-unlearn report runs/demo-seeds runs/demo-orders --out runs/compared""",
    "plan": """\
usage: lightning-unlearn plan --config FILE [--config FILE ...] [options] [--KEY VALUE ...]

Estimate memory, work, time and disk space of a run. The plan simulates the steps of training,
unlearning and evaluation on tensors without memory, as one GPU would run them. It needs neither GPU
nor weights nor data, and no network for the models of configs/models. Exit code 1: the run does
not fit.

options:
  --gpus N                     number of GPUs, one process each; default: 1. Several GPUs shard the
                               model (fsdp2), except with trainer.strategy ddp or a quantized base
  --gpu-memory SIZE            memory of each GPU, such as 24GiB; default: 80GiB
  --throughput TFLOPS          throughput of one GPU in training, to estimate the time
  --rows STAGE=N,...           number of rows of stages whose files are not available
  --KEY VALUE                  change the configuration; the keys with the largest effect are
                               data.max_length, data.micro_batch_size, model.gradient_checkpointing,
                               model.lora.rank, model.quantization, trainer.precision

examples:
  lightning-unlearn plan --config configs/demo.yaml
  lightning-unlearn plan --config configs/paper.yaml --config configs/models/qwen2.5-14b.yaml \\
    --gpus 4 --gpu-memory 80GiB --throughput 300 --rows inst=4000,tofu=4000,math=8000""",
    "prepare": """\
usage: lightning-unlearn prepare VERB [options]

Make data sets for stages: rows of any shape converted to one, or with answers that a model writes,
behind any server that speaks OpenAI's /v1/chat/completions, or a Hugging Face model on this
machine. Every answer is written to a journal before the next one is used; after a stop, the same
command makes only the missing calls.

verbs (lightning-unlearn prepare VERB --help lists the options):
  convert      rows of any shape as prompts and answers, messages or texts; needs no model
  refusals     a refusal to every prompt, such as SORRY-Bench's: one label, then a reason
  solutions    answers to mathematics questions, such as GSM8K's, kept where the number is right
  paraphrases  every answer in other words, as a further column
  alternates   other answers to every prompt, by a model or from a list, as a further column
  paper        the four stages of arXiv 2510.16629, where configs/paper.yaml expects them

options of all verbs but convert:
  --endpoint URL --model NAME  the server, up to /v1, and its model
  --api-key-env NAME           environment variable that holds the key; it is written nowhere
  --local-model NAME           a Hugging Face model instead
  --dry-run                    count the missing calls and tokens, and stop
  --price-in P --price-out P   US dollars for a million tokens; with --max-cost P, a limit that is
                               never passed
  --concurrency N              calls at once; 8

Beside FILE.jsonl lie FILE.jsonl.manifest.json (model, options, counts, cost, every row that was
left out and why) and FILE.jsonl.journal.jsonl. Endpoints need: pip install
'lightning-unlearn[prepare]'

examples:
  lightning-unlearn prepare convert --input alpaca.json --output alpaca.jsonl \\
      --prompt instruction input --answer output
  lightning-unlearn prepare refusals --input sorry-bench.jsonl --output refusals.jsonl \\
      --endpoint https://api.openai.com/v1 --model gpt-4o --api-key-env OPENAI_API_KEY \\
      --price-in 2.5 --price-out 10 --max-cost 20
  lightning-unlearn prepare paper --endpoint http://localhost:8000/v1 --model my-model""",
}
