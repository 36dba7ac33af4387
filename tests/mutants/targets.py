"""Which tests are a file's nearest, and which faults change nothing that a test could see."""

import fnmatch
import re

from tests.mutants.generate import Mutant

PACKAGES = ("ops", "nn", "models", "tasks", "train", "data")


def properties(*names: str) -> list[str]:
    test = "tests/ops/test_properties.py::test_values_and_gradients_are_those_of_the_direct_sums_and_of_torch"
    return [f"{test}[{name}]" for name in names]


OPS = ["tests/ops/test_accelerators.py", "tests/ops/test_special_forms.py", "tests/ops/test_linear.py"]
CONVOLUTIONS = ["tests/ops/test_conv.py", *OPS]
CONV = properties("conv2d", "depthwise_conv2d", "conv_transpose2d")
POOLS = properties("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "lp_pool2d", "global_max_pool2d")
UNPOOLS = properties("max_pool2d_with_indices", "max_unpool2d")
NORMS = ["moments", "batch_norm", "batch_norm of moments", "group_norm", "layer_norm", "local_response_norm"]


def library(network: str) -> list[str]:
    """Its logits, and a training step of its blocks, beside those of another library."""
    logits, keras = "tests/interop/test_torch.py::test_eval_logits_are_the_references", network == "vgg16"
    logits = "tests/interop/test_keras.py::test_eval_logits_are_keras_s" if keras else logits
    blocks = "tests/interop/test_torch_training.py::test_a_training_step_of_blocks_is_the_reference_s"
    return [f"{logits}[{network}]", *([f"{blocks}[{network}]"] if network not in WITHOUT_BLOCKS else [])]


LIBRARY = {name: [name] for name in ("alexnet", "googlenet", "xception", "mobilenet_v1", "mobilenet_v2")}
LIBRARY |= {"vgg": ["vgg16"], "inception": ["inception_v3"], "resnet": ["resnet18"], "densenet": ["densenet121"]}
LIBRARY |= {"shufflenet_v2": ["shufflenet_v2_x0_5"]}
LIBRARY |= {"squeezenet": ["squeezenet1_1"], "mnasnet": ["mnasnet"], "convnext": ["convnext_tiny"]}
LIBRARY |= {"efficientnet": ["efficientnet_b0"]}
WITHOUT_BLOCKS = ("alexnet", "vgg16")  # which has none that others have not
LOOP = [
    "tests/train/test_evaluation.py",
    "tests/train/test_reports.py",
    "tests/train/test_loop.py",
    "tests/train/test_multi_seed.py",
]
AUGMENT = ["tests/data/test_augment_compose.py", "tests/data/test_augment_geometry.py"]
AUGMENT += ["tests/data/test_augment_pixels.py", "tests/data/test_augment_mixing.py"]
REFERENCES = ["tests/models/test_references.py"]
SEGMENTATION = [
    "tests/models/test_segmentation.py",
    "tests/interop/test_segmentation_references.py",
    "tests/interop/test_torch_segmentation.py",
]
ALONE = ("lecture", "zfnet", "all_cnn", "resnet_cifar", "autoencoder", "fractalnet", "vgg_attention")  # in no library
ZOO = ["tests/models/test_zoo.py", "tests/models/test_classic_zoo.py"]

# The first pattern that fits a file of cnnjax/ decides; quick tests first, for a fault that they catch ends there.
TESTS: dict[str, list[str]] = {
    "ops/arguments.py": ["tests/ops/test_bad_calls.py", *CONVOLUTIONS, "tests/ops/test_pool.py"],
    "ops/axes.py": ["tests/ops/test_pool.py", *OPS, *properties("max_pool2d", "avg_pool2d")],
    "ops/conv.py": [*CONVOLUTIONS, *CONV, *properties("convolve2d", "separable_conv2d")],
    "ops/conv_primitives.py": [*CONVOLUTIONS, *CONV],
    "ops/transpose.py": [*OPS, *properties("conv_transpose2d")],
    "ops/norm.py": [
        *OPS,
        "tests/nn/test_norm.py",
        *properties(*NORMS),
        "tests/ops/test_contexts.py::test_modes_that_check_find_nothing",
    ],
    "ops/pool.py": ["tests/ops/test_pool.py", *OPS, *POOLS],
    "ops/unpool.py": [*OPS, *UNPOOLS],
    "ops/upsample.py": [
        *OPS,
        *properties("upsample_nearest", "upsample_bilinear", "resize_bilinear", "bed_of_nails", "pixel_shuffle"),
    ],
    "ops/boxes.py": ["tests/ops/test_boxes.py"],
    "ops/cpu/extremes.py": ["tests/ops/test_pool.py", *OPS, *properties("max_pool2d", "min_pool2d"), *UNPOOLS],
    "ops/cpu/windows.py": ["tests/ops/test_pool.py", *OPS, *properties("max_pool2d", "avg_pool2d")],
    "ops/cpu/finite.py": ["tests/ops/test_contexts.py", *CONVOLUTIONS, *CONV],
    "ops/cpu/*": [*CONVOLUTIONS, *CONV],
    "ops/mix.py": [*OPS, *properties("upsample_bilinear", "adaptive_avg_pool2d")],
    "ops/*": [*OPS, "tests/ops/test_contexts.py", "tests/ops/test_types.py", *CONV],
    "nn/norm.py": ["tests/nn/test_norm.py", "tests/nn/test_nn.py", "tests/train/test_loop.py"],
    "nn/regularization.py": ["tests/nn/test_regularization.py", *REFERENCES],
    "nn/initializers.py": ["tests/nn/test_initializers.py", "tests/nn/test_nn.py"],
    "nn/normalized.py": ["tests/train/test_normalization.py", "tests/lab/test_train_options.py"],
    "nn/*": [
        "tests/nn/test_layer_options.py",
        "tests/nn",
        *REFERENCES,
        "tests/models/test_models.py",
        "tests/models/test_heads.py",
    ],
    "models/boxes.py": ["tests/models/test_boxes.py"],
    "models/localizer.py": ["tests/models/test_localizer.py"],
    "tasks/localization.py": ["tests/tasks/test_localization.py"],
    "tasks/average_precision.py": ["tests/tasks/test_average_precision.py"],
    "tasks/classification.py": [
        "tests/tasks/test_predictions.py",
        "tests/tasks",
        "tests/train/test_evaluation.py",
        "tests/train/test_sampling.py",
    ],
    "tasks/*": ["tests/tasks/test_predictions.py", "tests/tasks", "tests/train/test_evaluation.py"],
    "train/averages.py": ["tests/train/test_averages.py", "tests/train/test_optimizers.py"],
    "train/groups.py": ["tests/train/test_groups.py", "tests/tasks/test_losses.py", "tests/train/test_optimizers.py"],
    "train/optimizers.py": ["tests/train/test_optimizers.py", "tests/train/test_averages.py"],
    "train/schedules.py": ["tests/train/test_optimizers.py"],
    "train/checkpoints.py": [
        "tests/train/test_reports.py",
        "tests/train/test_checkpoints.py",
        "tests/train/test_incompatible.py",
        *LOOP,
    ],
    "train/finite.py": ["tests/train/test_finite.py"],
    "train/evaluation.py": ["tests/train/test_evaluation.py", "tests/tasks/test_task.py", *LOOP],
    "train/trained.py": ["tests/train/test_trained.py", "tests/lab/test_own_data.py"],
    "train/arguments.py": ["tests/train/test_incompatible.py"],
    "train/checks.py": [
        "tests/train/test_normalization.py",
        "tests/train/test_sampling.py",
        "tests/train/test_incompatible.py",
        *LOOP,
    ],
    "train/reporting.py": ["tests/train/test_reports.py", *LOOP],
    "train/lengths.py": ["tests/train/test_lengths.py"],
    "train/rates.py": ["tests/train/test_rates.py"],
    "train/remat.py": ["tests/train/test_remat.py"],
    "train/segmented.py": ["tests/lab/test_segmentation.py"],
    "train/located.py": ["tests/lab/test_localization.py"],
    "train/multi_seed.py": ["tests/train/test_multi_seed.py", "tests/train/test_recipe.py"],
    "train/step.py": [*LOOP, "tests/train/test_recipe.py", "tests/train/test_normalization.py"],
    "train/recipe.py": [
        "tests/train/test_recipe.py",
        "tests/train/test_normalization.py",
        "tests/train/test_incompatible.py",
    ],
    "train/*": [*LOOP, "tests/train/test_recipe.py", "tests/train/test_finite.py", "tests/train/test_checkpoints.py"],
    "data/augment/geometry.py": ["tests/data/test_augment_geometry.py", "tests/data/test_augment_objects.py", *AUGMENT],
    "data/augment/pixels.py": ["tests/data/test_augment_pixels.py", *AUGMENT],
    "data/augment/objects.py": ["tests/data/test_augment_objects.py", "tests/data/test_augment_compose.py"],
    "data/augment/mixing.py": ["tests/data/test_augment_mixing.py", *AUGMENT],
    "data/augment/*": AUGMENT,
    "data/shapes.py": ["tests/data/test_shapes.py", "tests/data/test_scenes.py"],
    "data/raster.py": ["tests/data/test_shapes.py", "tests/data/test_scenes.py"],
    "data/scenes.py": ["tests/data/test_scenes.py"],
    "data/masks.py": ["tests/data/test_masks.py"],
    "data/segmentation.py": ["tests/data/test_masks.py"],
    "data/builders/camvid.py": ["tests/data/test_masks.py"],
    "data/builders/*": ["tests/data/test_boxes.py"],
    "data/boxes.py": ["tests/data/test_boxes.py", "tests/data/test_coco.py"],
    "data/coco.py": ["tests/data/test_coco.py"],
    "data/outlines.py": ["tests/data/test_coco.py"],
    "data/objects.py": ["tests/data/test_boxes.py", "tests/data/test_coco.py"],
    "data/stream.py": ["tests/data/test_stream.py", "tests/data/test_load.py"],
    "data/order.py": ["tests/data/test_order.py", "tests/train/test_sampling.py", "tests/train/test_loop.py"],
    "data/sources.py": ["tests/data/test_sources.py", "tests/data/test_load.py", "tests/data/test_stream.py"],
    "data/decode.py": ["tests/data/test_decode.py", "tests/data/test_masks.py", "tests/data/test_folders.py"],
    "data/folders.py": ["tests/data/test_folders.py", "tests/data/test_load.py"],
    "data/*": ["tests/data/test_order.py", "tests/data/test_load.py", "tests/data/test_stream.py"],
    "models/registry.py": ["tests/models/test_registry.py", "tests/models/test_models.py"],
    "models/heads.py": ["tests/models/test_heads.py", "tests/models/test_training.py"],
    "models/summary.py": ["tests/models/test_models.py"],
    "models/features.py": ["tests/models/test_models.py", *REFERENCES],
    "models/shufflenet_v1.py": [*ZOO, *REFERENCES],
    **{f"models/{name}.py": [*REFERENCES, *ZOO, "tests/models/test_models.py"] for name in ALONE},
    **{
        f"models/{name}.py": [*(part for network in networks for part in library(network)), *ZOO]
        for name, networks in LIBRARY.items()
    },
    "models/mobilenet_v3.py": [
        *library("mobilenet_v3_small"),
        "tests/interop/test_timm.py::test_eval_logits_are_timm_s[mobilenet_v3_large]",
        *ZOO,
    ],
    "models/blocks.py": ["tests/models/test_blocks.py", *library("mobilenet_v2"), *library("efficientnet_b0"), *ZOO],
    "models/images.py": [*ZOO, "tests/models/test_models.py", *SEGMENTATION],
    "models/backbones.py": ["tests/models/test_backbones.py", *SEGMENTATION],
    **{f"models/{name}.py": SEGMENTATION for name in ("deeplab", "dilatednet", "fcn", "lraspp", "segnet", "unet")},
    "models/*": [*ZOO, "tests/models/test_models.py"],
}

# Of a file, a line or a kind of fault, and why no test can tell.
SAME: list[tuple[str, str, str]] = [
    ("*", r"strict=(True|False)", "a check of lengths that are equal"),
    ("*", r"TYPE_CHECKING|^from |^import |Annotated\[", "never runs, or only for type checkers"),
    ("*", r"precision=.highest", "CPUs compute in full precision anyway"),
    ("*", r"optimization_barrier|stored\(|check_vma|donate|block_until_ready", "speed and memory alone"),
    (
        "*",
        r"STEPS_AHEAD|EVAL_BATCH|PARTS|PADDED_UP_TO|MAX_SQUARED_MEAN|AHEAD|WORKERS|CACHED",
        "a size that decides speed",
    ),
    ("*", r"Error\(|warn\(|log\.|logger|unknown_name", "the words of a message"),
    ("*", r"^[A-Z_]+: |^[A-Z][A-Z_]+ = [0-9.e*]+( |$)", "constants, which tests read from where they stand"),
    (
        "cnnjax/ops/cpu/*",
        r"^(if|return .* if|elif) .*(TAPS|PIXELS|CHANNELS|fewer|MAX_|MIN_|size|shape)",
        "which of two forms is faster; both are right",
    ),
    ("cnnjax/ops/cpu/fusion.py", "", "speed alone"),
    ("cnnjax/*/__init__.py", "", "names alone"),
]

# Faults that survived, and why no test can catch them.
EXPLAINED = {
    "200e38525a": "The axis has one element, and JAX reads the last one for an index beyond it.",
    "2b2a05c666": "A random number is never exactly 0.4.",
    "a2e880b59f": "Maps that are not square are then unpooled by the general form, which is as right and slower.",
    "1f71eb301b": "All devices have the same copy, and JAX reads the last element for an index beyond the axis.",
    "44486517bd": "Twice a score has the same order.",
    "623139a72d": "Any number below all overlaps is as good.",
    "ffed1e2b17": "Only the first 255 are read.",
    "a54a06fca3": "Of 1 and of 3, the only sizes, a half and a third are the same without remainder.",
    "4d6a337df0": "The pixel has no class, and weighs 0 whatever stands in its place.",
}


def nearest(path: str) -> list[str]:
    """Return what pytest is given for a file of the package."""
    inside = path.removeprefix("cnnjax/")
    return list(dict.fromkeys(next(tests for glob, tests in TESTS.items() if fnmatch.fnmatch(inside, glob))))


def same(mutant: Mutant) -> str | None:
    """Return why a fault changes nothing that a test could see; None where it may."""
    for glob, pattern, reason in SAME:
        if fnmatch.fnmatch(mutant.path, glob) and re.search(pattern, mutant.before):
            return reason
    return None
