// The subcommands of crnet. Each parses its arguments, calls the library, and returns the exit
// code; argv[0] is the subcommand's name.
#pragma once

#include <cxxopts.hpp>
#include <span>
#include <string>
#include <vector>

namespace crnet {

int run_prepare(int argc, char** argv);
int run_train(int argc, char** argv);
int run_launch(int argc, char** argv);
int run_eval(int argc, char** argv);
int run_generate(int argc, char** argv);
int run_checkpoint(int argc, char** argv);
int run_verify_resume(int argc, char** argv);
int run_plan(int argc, char** argv);
int run_bench(int argc, char** argv);
int run_config(int argc, char** argv);

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* summary;
};

/// All of them, in the order of crnet --help.
std::span<const Command> commands();

/// The one of this name; a UsageError that names the nearest where there is none.
const Command& find_command(const std::string& name);

/// Throws the UsageError that `train` in each of so many processes, at least 1, would end with as
/// its arguments are read, its configuration, and what the processes share.
void check_train(int argc, char** argv, int num_processes);

/// Parses, and turns what cxxopts throws into a UsageError that names the subcommand. Arguments
/// that nothing takes are one too, unless the subcommand takes further ones.
cxxopts::ParseResult parse_arguments(cxxopts::Options& options, int argc, char** argv,
                                     bool takes_further = false);

/// Adds --device, --precision and --threads, which eval and generate share.
void add_runtime_options(cxxopts::Options& options);

/// Before LibTorch's profiler runs first: it says nothing on standard error, where with CUDA's
/// LibTorch and no GPU it would report an error that is none. KINETO_LOG_LEVEL overrides it.
void keep_profiler_quiet();

/// Every --set in order. Not a cxxopts list: that would split model.r=[64,128] at its comma.
std::vector<std::string> overrides_in(const cxxopts::ParseResult& parsed);

/// The value of an argument that has to be there; `what` names it in the error.
std::string required(const cxxopts::ParseResult& parsed, const std::string& name,
                     const std::string& command, const std::string& what);

}  // namespace crnet
