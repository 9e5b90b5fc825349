// crnet eval: perplexity of a checkpoint.
#include <cstdio>

#include "cli/commands.h"
#include "cli/runtime_options.h"
#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/data/tokenizer.h"
#include "crnet/train/evaluate.h"
#include "crnet/train/saved_model.h"

namespace crnet {
namespace {

cxxopts::Options eval_options() {
  cxxopts::Options options("crnet eval", "Perplexity of a checkpoint on prepared data.");
  options.add_options()("checkpoint",
                        "a checkpoint's folder, or a run's, whose newest one is taken",
                        cxxopts::value<std::string>())("data", "folder that `crnet prepare` made",
                                                       cxxopts::value<std::string>())(
      "split", "train or validation", cxxopts::value<std::string>()->default_value("validation"))(
      "sequence-length", "tokens per window; 0: as in training",
      cxxopts::value<int64_t>()->default_value("0"))("batch", "windows per forward pass",
                                                     cxxopts::value<int64_t>()->default_value("8"))(
      "tokens", "tokens to read; 0: all", cxxopts::value<int64_t>()->default_value("0"))(
      "h,help", "this text");
  add_runtime_options(options);
  options.parse_positional({"checkpoint"});
  options.custom_help("CHECKPOINT --data DIR [OPTION...]").positional_help("");
  return options;
}

EvalOptions sizes_in(const cxxopts::ParseResult& parsed, const SavedModel& saved) {
  const ModelConfig& model = saved.model->config();
  EvalOptions options;
  options.batch = parsed["batch"].as<int64_t>();
  options.sequence_length = parsed["sequence-length"].as<int64_t>();
  if (options.sequence_length == 0) options.sequence_length = saved.trained_sequence_length();
  options.max_tokens = parsed["tokens"].as<int64_t>();
  if (options.batch < 1 || options.max_tokens < 0) {
    throw UsageError("[eval] expected --batch of at least 1 and --tokens of at least 0");
  }
  if (options.sequence_length < 1 || options.sequence_length > model.max_sequence_length) {
    throw UsageError(format("[eval] expected --sequence-length in 1 to %ld, got %ld",
                            static_cast<long>(model.max_sequence_length),
                            static_cast<long>(options.sequence_length)));
  }
  return options;
}

}  // namespace

int run_eval(int argc, char** argv) {
  auto options = eval_options();
  const auto parsed = parse_arguments(options, argc, argv);
  if (parsed.count("help") != 0) {
    std::printf("%s", options.help().c_str());
    return 0;
  }
  const std::string path = required(parsed, "checkpoint", "eval", "a checkpoint");
  const std::string data = required(parsed, "data", "eval", "--data DIR");
  keep_freed_memory();
  const Runtime runtime = runtime_from(parsed);
  SavedModel saved = load_model(path, runtime);
  DataSetChecks checks;
  checks.verify = true;
  checks.tokenizer_hash = Tokenizer::load(saved.checkpoint.tokenizer()).hash();
  const DataSet dataset = DataSet::open(data, parsed["split"].as<std::string>(), checks);
  const EvalResult result =
      evaluate(*saved.model, runtime.device, dataset, sizes_in(parsed, saved));
  std::printf(
      "checkpoint    %s (step %ld)\ntokens        %ld\nloss          %.4f nats per token\n"
      "perplexity    %.3f\nbits per byte %.4f\n",
      saved.checkpoint.folder.c_str(), static_cast<long>(saved.checkpoint.state.step),
      static_cast<long>(result.tokens), result.loss, result.perplexity(),
      result.bits_per_byte(dataset.split_index().bytes_per_token()));
  return 0;
}

}  // namespace crnet
