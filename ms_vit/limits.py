"""Bounds of what is read from files of strangers: above every honest one, far below what fills memory or disk.

A parser reads sizes, counts and depths out of the file it parses, and believes none of them further than this. MAX_ is
the most that is taken. FREE_ is what a file may come to however small it is; above it MAX_..._RATIO bounds how many
times larger than itself it may become.
"""

# --- YAML: recipes and cards
MAX_YAML_BYTES = 1_000_000      # a recipe or card is a page
MAX_YAML_DEPTH = 16             # of lists and mappings within one another; a recipe has three

# --- the calls that prepare an image
MAX_CALL_TEXT = 1000            # letters; a choice of several operations takes some hundred
MAX_CALL_DEPTH = 4              # of calls within one another; a random choice of compositions has three
MAX_CALL_NUMBER = 16_384        # no picture needs a longer side, and a longer one takes all memory

# --- archives
MAX_ARCHIVE_RATIO = 100         # photos hardly shrink; a bomb is 1,000 times its archive and more
FREE_ARCHIVE_BYTES = 64_000_000
MAX_TAR_NOTES = 100_000         # bytes of a tar's header that holds a long name, or notes
MAX_MEMBER_NAME = 2000          # bytes of a path
MAX_MEMBER_DEPTH = 32           # folders of it

# --- pickles, data sets, images
MAX_PICKLE_READS = 1_000_000    # an instruction is one or a few; a ViT-L with its optimiser takes 100,000
MAX_CIFAR_BYTES = 100_000_000   # of a pickle; theirs have 31 MB
MAX_META_BYTES = 50_000_000     # of ImageNet's meta.mat, which has 27 kB
# Half a gigabyte as RGB, where Pillow itself refuses: no camera's photo, but a file of a few bytes can claim as many.
MAX_PIXELS = 178_956_970
MAX_IMAGE_BYTES = 8 * MAX_PIXELS    # four channels of 16 bits, not compressed
MAX_SHARD_HEADER = 1 << 20      # of what MindRecord has to say of a shard, for which we give it so much

# --- requests to ms-vit serve
MAX_REQUESTS = 512              # under way at once; further ones are asked to come again
MAX_CONNECTIONS = 640           # open at once; with uploads on the disk below the 1,024 files that a process may have
MAX_BODY_BYTES = 32_000_000     # of a request; a camera's JPEG has up to 20 MB
MAX_BODIES_BYTES = 256_000_000  # of all that are under way
MAX_UPLOADS = 64                # pictures of a request
MAX_FIELDS = 16                 # of its form besides, each of at most so many bytes:
MAX_FIELD_BYTES = 1000
MAX_REQUEST_SECONDS = 30        # for a request's head to come, for its body, for its answer to be taken
MAX_ATTENTION_BYTES = 500_000_000       # of what one picture's attention takes; a ViT-B/16 at 384 pixels has 384 MB
LARGE_PIXELS = 16_000_000       # pictures above it are decoded one at a time: one of MAX_PIXELS takes 2 GB

# --- weight files
MAX_HEADER = 8_000_000          # bytes of what describes the tensors; a ViT-L's takes 60 kB, an optimiser's 200 kB
MAX_DIMS = 32                   # of an array, by NumPy
MAX_CKPT_TEXT = 10_000          # bytes of a tag or of a type's name
MAX_CKPT_FIELDS = 100_000       # of a message
MAX_TORCH_RATIO = 4             # bfloat16 doubles, views that overlap need more, an expanded tensor has no end
FREE_TORCH_BYTES = 64_000_000
MAX_NPZ_RATIO = 100             # weights hardly shrink
FREE_NPZ_BYTES = 64_000_000

# --- networks that a file or a recipe describes
# From and to what ViT's arguments make sense; building a larger network would take all memory. The largest ViT
# (Dehghani et al. 2023) has 48 blocks of 6,144 and 22e9 weights.
NETWORK = {"image_size": (1, 16_384), "patch_size": (1, 128), "num_classes": (1, 1_000_000), "dim": (1, 16_384),
           "depth": (1, 512), "num_heads": (1, 512), "mlp_dim": (1, 131_072), "channels": (1, 64),
           "head_dim": (1, 4_096), "registers": (0, 1_024), "stem": (1, 16_384),
           "head_hidden": (1, 131_072)}
MAX_PATCHES = 16_384            # of an image; attention compares each with each, which takes 1 GB a head for so many
MAX_WEIGHTS = 30_000_000_000
MAX_LACKING = 100               # times the weights in a file, for which a network is built nonetheless
