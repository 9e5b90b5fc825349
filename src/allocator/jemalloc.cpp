// jemalloc's settings for crnet's programs, which it reads at their start; the environment's
// MALLOC_CONF goes before them.

// Freed memory is kept: a training step asks for the same again, and pages from the kernel have to
// be cleared first. And it is taken from again whatever its size: by default no piece is cut from
// a free range of more than 64 times its size, but the free activations of a deep model are one
// range of gigabytes, so that each step began in fresh memory.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
extern "C" const char* malloc_conf;
const char* malloc_conf = "dirty_decay_ms:-1,muzzy_decay_ms:-1,lg_extent_max_active_fit:48";
