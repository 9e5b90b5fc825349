// jemalloc's settings for crnet's programs, which it reads at their start; the environment's
// MALLOC_CONF goes before them.

// Freed memory is kept: a training step asks for the same again, and pages from the kernel have to
// be cleared first.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
extern "C" const char* malloc_conf;
const char* malloc_conf = "dirty_decay_ms:-1,muzzy_decay_ms:-1";
