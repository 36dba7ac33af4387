"""Where a network's names here differ from those of the library that its weights come from: patterns to replace."""

RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "InceptionV3": (
        (r"^conv2d_", "Conv2d_"),
        (r"^mixed_", "Mixed_"),
        (r"^aux_logits\.", "AuxLogits."),
        (r"branch_pool\.1\.", "branch_pool."),
        (r"(branch\w+)\.(\d)(?:\.([ab]))?\.", r"\1_\2\3."),  # of several convolutions, "1", "2", "3.a", ...
    ),
    "Xception": ((r"\.depthwise\.", ".conv1."),),
    # A `Sequential` keeps its layers under "layers", which names leave out; torchvision's MNASNet says it itself.
    "MNASNet": ((r"^features", "layers"), (r"\.block\.", ".layers.")),
}
