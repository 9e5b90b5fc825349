// crnet generate: continues a prompt.
#include <cstdio>

#include "cli/commands.h"
#include "cli/runtime_options.h"
#include "crnet/core/error.h"
#include "crnet/data/tokenizer.h"
#include "crnet/train/generate.h"
#include "crnet/train/saved_model.h"
#include "crnet/train/stop_signal.h"

namespace crnet {
namespace {

cxxopts::Options generate_options() {
  cxxopts::Options options("crnet generate", "Continues a prompt with a checkpoint.");
  options.add_options()("checkpoint",
                        "a checkpoint's folder, or a run's, whose newest one is taken",
                        cxxopts::value<std::string>())(
      "prompt", "text to continue; begins a new document where left out",
      cxxopts::value<std::string>()->default_value(""))(
      "max-tokens", "new tokens at most", cxxopts::value<int64_t>()->default_value("100"))(
      "temperature", "0: always the most likely token",
      cxxopts::value<double>()->default_value("0.8"))(
      "top-p", "draw from the most likely tokens of this probability in all",
      cxxopts::value<double>()->default_value("0.95"))(
      "seed", "of the draws", cxxopts::value<uint64_t>()->default_value("0"))(
      "no-cache", "recompute everything for each token")("h,help", "this text");
  add_runtime_options(options);
  options.parse_positional({"checkpoint"});
  options.custom_help("CHECKPOINT --prompt TEXT [OPTION...]").positional_help("");
  return options;
}

GenerateOptions sampling_in(const cxxopts::ParseResult& parsed) {
  GenerateOptions options;
  options.max_tokens = parsed["max-tokens"].as<int64_t>();
  options.temperature = parsed["temperature"].as<double>();
  options.top_p = parsed["top-p"].as<double>();
  options.seed = parsed["seed"].as<uint64_t>();
  options.use_cache = !parsed["no-cache"].as<bool>();
  return options;
}

void print_now(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

int run_generate(int argc, char** argv) {
  auto options = generate_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const std::string path = required(parsed, "checkpoint", "generate", "a checkpoint");
  const Runtime runtime = runtime_from(parsed);
  SavedModel saved = load_model(path, runtime);
  const Tokenizer tokenizer = Tokenizer::load(saved.checkpoint.tokenizer());
  GenerateOptions sampling = sampling_in(parsed);
  sampling.vocab_size = tokenizer.vocab_size();
  sampling.eos_id = tokenizer.eos_id();
  const std::string text = parsed["prompt"].as<std::string>();
  std::vector<int32_t> prompt = tokenizer.encode(text);
  // A document begins after the end of another.
  if (prompt.empty()) prompt = {tokenizer.eos_id()};
  check_generation(saved.model->config(), static_cast<int64_t>(prompt.size()), sampling);
  const StopSignal signals;
  print_now(text);
  IncrementalDecoder decoder(tokenizer, prompt);
  generate(*saved.model, runtime.device, prompt, sampling, [&](int32_t token) {
    print_now(decoder.push(token));
    return StopSignal::received() == 0;
  });
  print_now(decoder.finish() + "\n");
  return 0;
}

}  // namespace crnet
