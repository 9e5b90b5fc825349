// crnet: starts crnet-cuda where there is a driver for NVIDIA GPUs, else crnet-cpu, which does
// without libtorch_cuda.so: loading that takes 230 MiB and a quarter of a second.
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

namespace {

bool can_use_gpus() {
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string devices = visible == nullptr ? "all" : visible;
  if (devices.empty() || devices == "-1") return false;  // CUDA's ways to hide them all
  return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
}

// GCC's OpenMP has a thread that waits spin for milliseconds; where another program wants the core,
// the thread that is waited for does not get on. It reads its variables as it is loaded.
void shorten_waiting() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "2000", /*overwrite=*/0);
}

}  // namespace

int main(int /*argc*/, char** argv) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    std::fprintf(stderr, "crnet: expected /proc/self/exe to name this program, got: %s\n",
                 error.message().c_str());
    return 70;
  }
  const auto program = self.parent_path() / (can_use_gpus() ? "crnet-cuda" : "crnet-cpu");
  shorten_waiting();
  execv(program.c_str(), argv);
  std::fprintf(stderr,
               "crnet: expected to start %s, got: %s; it belongs beside the program crnet\n",
               program.c_str(), std::strerror(errno));
  return 70;
}
