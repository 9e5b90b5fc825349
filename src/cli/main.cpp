// crnet: dispatches to the subcommands and turns errors into one line and an exit code.
#include <c10/util/Exception.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "cli/commands.h"
#include "crnet/core/error.h"
#include "crnet/core/version.h"

namespace {

void print_usage(FILE* stream) {
  std::fputs(
      "crnet pre-trains cross-layer low-rank (CR-Net) language models.\n\n"
      "Usage: crnet COMMAND ...\n\n",
      stream);
  for (const auto& command : crnet::commands()) {
    std::fprintf(stream, "  %-13s %s\n", command.name, command.summary);
  }
  std::fputs("\ncrnet COMMAND --help tells more; crnet --version prints the version.\n", stream);
}

int dispatch(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--version") {
    std::printf("crnet %s\n", crnet::kVersion);
    return 0;
  }
  if (name == "--help" || name == "-h" || name == "help") {
    print_usage(stdout);
    return 0;
  }
  if (name.empty()) {
    print_usage(stderr);
    return 2;
  }
  return crnet::find_command(name).run(argc - 1, argv + 1);
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

int main(int argc, char** argv) {
  // Past the limit on a file's size a write has to fail, as on a full disk, not to end the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return dispatch(argc, argv);
  } catch (const crnet::UsageError& error) {
    std::fprintf(stderr, "crnet: %s\n", error.what());
    return 2;
  } catch (const crnet::Error& error) {
    std::fprintf(stderr, "crnet: %s\n", error.what());
    return 1;
  } catch (const c10::OutOfMemoryError& error) {
    std::fprintf(stderr,
                 "crnet: the device is out of memory: %s; lower train.micro_batch "
                 "(train.global_batch_tokens keeps the batch)\n",
                 first_line(error.what_without_backtrace()).c_str());
    return 1;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "crnet: unexpected failure in LibTorch: %s\n",
                 first_line(error.what_without_backtrace()).c_str());
    return 70;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "crnet: unexpected failure: %s\n", error.what());
    return 70;
  }
}
