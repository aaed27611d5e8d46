"""Help texts, kept apart from everything that is slow to import."""

OVERVIEW = """\
usage: lightning-unlearn COMMAND [--config FILE ...] [--KEY VALUE ...]

Machine unlearning in language models that were trained in stages.

commands:
  fit        train the stages of one path, then unlearn the forget stage
  validate   measure a stored model, without training
  study      paths x methods x seeds x settings: every stage prefix is trained once; table, figures
  status     what of a study or run is done, running, failed, left
  report     a page with curves, tables and figures of a study or run, or of several
  plan       memory, work, time and disk that a run needs, without GPU and weights
  prepare    data sets for stages, written by a model: refusals, solutions, paraphrases, ...

lightning-unlearn COMMAND --help tells more.  --version prints the version.

first steps:
  lightning-unlearn fit --config configs/demo.yaml
  lightning-unlearn study --config configs/demo-study.yaml
  tensorboard --logdir runs/demo"""

_KEYS = """\
configuration:
  --config FILE                YAML; may be given several times, later ones change what they name
  --print_config               print the whole configuration, defaults included, and stop
  --help-all                   every key with its type and default (slow: imports torch)

most used keys (each is also a YAML key; the command line wins):
  --seed_everything N          seed of everything random
  --trainer.callbacks+=NAME    add GA, NPO, SimNPO, a monitor, or your own module.Class; a method
                               added here takes the place of the file's
  --trainer.store DIR          stage store; runs that share it train no prefix twice
  --trainer.default_root_dir DIR   where runs go
  --trainer.accelerator cpu|gpu    --trainer.devices N    --trainer.strategy ddp
  --trainer.checkpoint_steps N     checkpoints inside a stage; or .checkpoint_minutes (10)
  --trainer.precision 32-true|bf16-true|bf16-mixed
  --model.base NAME            model folder, hub name, or demo:tiny-llama
  --model.lora.rank N          --model.lora null trains all weights
  --model.lora.target_modules '[q_proj, v_proj]'
  --model.quantization nf4     the base in 4 bits a weight, as in QLoRA; needs bitsandbytes
  --model.gradient_checkpointing true    --model.merge true    --model.compile true
  --data.order '[a, b, c]'     the path; or --data.position P, or --data.permutation K
  --data.forget STAGE          the stage to unlearn
  --data.oracle true           train the path without it, and measure: what unlearning should give
  --data.stages.STAGE.source FILE    .lr .epochs .steps .batch_size .schedule .prompt .answer ...
  --data.unlearn.lr LR         .epochs .steps .batch_size .schedule ...
  --data.micro_batch_size N    sequences of one forward; changes speed, memory and rounding"""

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

Ask the monitors about a stored model, without training.

  --stage STAGE                after which stage: base (the untouched model), a stage of the path,
                               or unlearn; the last one if not given

{_KEYS}

examples:
  lightning-unlearn validate --config configs/demo.yaml --stage base
  lightning-unlearn validate --config configs/demo.yaml --data.position 1 --stage math""",
    "study": """\
usage: lightning-unlearn study --config FILE [--config FILE ...] [options] [--KEY VALUE ...]

Run paths x methods x seeds x settings, training every stage prefix once; then write the table, the
records and the figures. The same command goes on where a study was stopped.

options:
  --dry-run                    show the plan as a tree, and stop; nothing is trained or written
  --only KEY=VALUE,...         only some trials: path (number, or stages joined by -), position,
                               method, seed, swept keys; values of one key are alternatives

keys of a study file:
  --name NAME                  name of the study in its records; the file's name if not given
  --fit FILE                   a fit configuration, relative to the study file; a list composes;
                               in the file it may also be the configuration itself
  --paths positions            move the forget stage from first to last
  --paths permutations         every order of the stages
  --paths '[[a, b], [b, a]]'   these paths
  --methods.LABEL.callback NAME      unlearning method: name, or class_path and init_args
  --methods.LABEL.unlearn.lr LR      recipe of unlearning for this method, where it differs
  --seeds '[0, 1, 2]'          everything once for each; the fit configuration's seed if not given
  --sweep.data.unlearn.lr '[1e-5, 5e-5]'   everything once for each value of any key of fit, and
                               for each combination of several keys
  --oracle true                also train each path without the forget stage, and measure it
  --overrides.KEY VALUE        change the fit configuration: --overrides.data.unlearn.lr 1e-4
  --folder DIR                 where results go; trainer.default_root_dir if not given
  --figures false              only tables at the end; the report command draws figures and page

where the work is done:
  --workers N                  N processes of this machine, each with its own GPUs
  --gpus_per_worker N          GPUs of each worker, or of each task on Ray
  --ray ADDRESS                a Ray cluster, or auto; its machines share the study's folders
  --cpus_per_worker N          CPU cores of each task on Ray

  On a CPU, the same machine, versions and number of threads give the same bytes; all else is equal
  to rounding. Workers share the cores, so their number decides that of the threads of each:
  OMP_NUM_THREADS=1 in the environment gives the same bytes with any number of workers.

examples:
  lightning-unlearn study --config configs/demo-study.yaml
  lightning-unlearn study --config configs/demo-study.yaml --only path=4,method=NPO
  lightning-unlearn study --config configs/demo-seeds.yaml --workers 2""",
    "status": """\
usage: lightning-unlearn status FOLDER

Tell what of a study or a run is done, running (where, which step), failed (why) and left.

example:
  lightning-unlearn status runs/demo""",
    "report": """\
usage: lightning-unlearn report FOLDER [FOLDER ...] [--out FOLDER] [--paper]

Write a page to look at, with tables as CSV and Markdown and figures beside it, of a study or a run;
several are compared side by side. An unfinished study has what is finished, and says what is
missing. Nothing is trained, and torch is not needed.

options:
  --out FOLDER                 where to; FOLDER/report of a single one, report-compared of several
  --paper                      also the figures of the paper that the study has the runs for

examples:
  lightning-unlearn report runs/demo
  lightning-unlearn report runs/demo-seeds runs/demo-orders --out runs/compared""",
    "plan": """\
usage: lightning-unlearn plan --config FILE [--config FILE ...] [options] [--KEY VALUE ...]

Tell before a run what it needs: the real steps of learning, unlearning and evaluation are simulated
on tensors without memory, as one of the GPUs would do them. Needs neither GPU nor weights nor data;
for the models of configs/models not even the network. Exit code 1 if it does not fit.

options:
  --gpus N                     one process each; 1 if not given. More than one share the model out
                               (fsdp2), unless trainer.strategy is ddp or the base is quantized
  --gpu-memory SIZE            memory of each, such as 24GiB; 80GiB if not given
  --throughput TFLOPS          what one GPU reaches in training, for an estimate of time
  --rows STAGE=N,...           rows of stages whose files are not at hand
  --KEY VALUE                  change the configuration; most telling are data.max_length,
                               data.micro_batch_size, model.gradient_checkpointing, model.lora.rank,
                               model.quantization, trainer.precision

examples:
  lightning-unlearn plan --config configs/demo.yaml
  lightning-unlearn plan --config configs/paper.yaml --config configs/models/qwen2.5-14b.yaml \\
    --gpus 4 --gpu-memory 80GiB --throughput 300 --rows inst=4000,tofu=4000,math=8000""",
    "prepare": """\
usage: lightning-unlearn prepare VERB [options]

Make data sets for stages, with answers that a model writes: behind any server that speaks OpenAI's
/v1/chat/completions, or a Hugging Face model on this machine. Every answer is written to a journal
before the next one is used; after a stop, the same command makes only the missing calls.

verbs (lightning-unlearn prepare VERB --help lists the options):
  refusals     a refusal to every prompt, such as SORRY-Bench's: one label, then a reason
  solutions    answers to mathematics questions, such as GSM8K's, kept where the number is right
  paraphrases  every answer in other words, as a further column
  alternates   other answers to every prompt, by a model or from a list, as a further column
  paper        the four stages of arXiv 2510.16629, where configs/paper.yaml expects them

options of all verbs:
  --endpoint URL --model NAME  the server, up to /v1, and its model
  --api-key-env NAME           environment variable that holds the key; it is written nowhere
  --local-model NAME           a Hugging Face model instead
  --dry-run                    count the missing calls and tokens, and stop
  --price-in P --price-out P   US dollars for a million tokens; with --max-cost P, a limit that is
                               never passed
  --concurrency N              calls at once; 8

Beside FILE.jsonl lie FILE.jsonl.manifest.json (model, options, counts, cost, every row that was
left out and why) and FILE.jsonl.journal.jsonl. Needs: pip install 'lightning-unlearn[prepare]'

examples:
  lightning-unlearn prepare refusals --input sorry-bench.jsonl --output refusals.jsonl \\
      --endpoint https://api.openai.com/v1 --model gpt-4o --api-key-env OPENAI_API_KEY \\
      --price-in 2.5 --price-out 10 --max-cost 20
  lightning-unlearn prepare paper --endpoint http://localhost:8000/v1 --model my-model""",
}
