// Whole runs of a tiny model: resuming to the bit, refusing what does not fit, staying whole when
// numbers do not.
#include "crnet/train/trainer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "crnet/core/error.h"
#include "crnet/core/file.h"
#include "crnet/data/data_index.h"
#include "crnet/data/prepare.h"
#include "crnet/train/checkpoint.h"
#include "crnet/train/evaluate.h"
#include "crnet/train/generate.h"
#include "crnet/train/saved_model.h"
#include "data/test_files.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

// Prepared once for all tests of this process: the public headers are the text.
const fs::path& shared_data() {
  static const test::TempFolder folder;
  static const bool prepared = [] {
    PrepareOptions options;
    options.inputs = {fs::path(CRNET_SOURCE_DIR) / "include"};
    options.output = folder.path();
    options.train_tokenizer = 500;
    options.document_bytes = 2048;
    options.validation_fraction = 0.1;
    options.threads = 1;
    prepare(options);
    return true;
  }();
  static_cast<void>(prepared);
  return folder.path();
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("crnet_run_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  LoadedConfig<RunConfig> config(const std::string& run, std::vector<std::string> more = {}) const {
    std::vector<std::string> overrides = {
        "model={hidden_size: 32, num_layers: 3, num_heads: 4, ffn_size: 48, vocab_size: 512, r: 8, "
        "max_sequence_length: 64}",
        "data={path: " + shared_data().string() + ", sequence_length: 32}",
        "train={steps: 8, micro_batch: 2, global_batch_tokens: 128, threads: 1, device: cpu, "
        "precision: fp32, eval_every: 0, eval_tokens: 256}",
        "schedule={warmup_steps: 2}", "train.run_dir=" + (folder_ / run).string()};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const fs::path file = folder_ / "empty.yaml";
    std::ofstream(file) << "{}\n";
    return load_run_config(file.string(), overrides);
  }

  static std::string weights(const TrainSummary& summary) {
    return digest_file(summary.checkpoint / "model.safetensors").xxh3 +
           digest_file(summary.checkpoint / "optimizer.safetensors").xxh3;
  }

  static CheckpointContent content_of(const fs::path& folder) {
    CheckpointContent content;
    const auto checkpoint = open_checkpoint(folder);
    const auto model = checkpoint.model(), optimizer = checkpoint.optimizer();
    for (const auto& name : model.names()) {
      content.model.push_back(whole_piece(name, model.load(name)));
    }
    for (const auto& name : optimizer.names()) {
      content.optimizer.push_back(whole_piece(name, optimizer.load(name)));
    }
    content.state = checkpoint.state;
    content.tokenizer = checkpoint.tokenizer();
    return content;
  }

  fs::path folder_;
};

TEST_F(TrainerTest, ResumedRunIsBitIdenticalToOneThatNeverStopped) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const std::string set = "train.precision=" + precision;
    const auto straight = train(config("straight-" + precision, {set}));
    // The schedule looks at the number of steps, so the first part is the same run, cut off.
    const auto part = config("parts-" + precision, {set, "checkpoint.every=5"});
    train(part);
    const fs::path middle = folder_ / ("parts-" + precision) / "checkpoints" / "step-00000005";
    const auto resumed = train(config("resumed-" + precision, {set}), {middle.string()});
    EXPECT_EQ(weights(resumed), weights(straight)) << precision;
    EXPECT_EQ(resumed.final_loss, straight.final_loss);
    EXPECT_EQ(resumed.validation_loss, straight.validation_loss);
  }
}

TEST_F(TrainerTest, APartEndsAfterTheStepItIsToldAndTheNextGoesOnWithTheWholeSchedule) {
  const auto straight = train(config("straight"));
  const auto part = train(config("parts", {"checkpoint.every=3"}), {.stop_after = 3});
  EXPECT_TRUE(part.stopped);
  EXPECT_EQ(part.steps, 3);
  EXPECT_EQ(open_checkpoint(part.checkpoint).state.step, 3);
  const auto resumed = train(config("parts"), {.resume = "auto", .stop_after = 100});
  EXPECT_FALSE(resumed.stopped);
  EXPECT_EQ(resumed.steps, 8);
  EXPECT_EQ(weights(resumed), weights(straight));
}

TEST_F(TrainerTest, TheGeneratorThatACheckpointHoldsFollowsFromTheSeed) {
  const auto generator_after = [&](const std::string& run, int seed) {
    torch::manual_seed(getpid() + std::hash<std::string>()(run));  // as another process has it
    const auto summary =
        train(config(run, {"train.steps=2", "train.seed=" + std::to_string(seed)}));
    return open_checkpoint(summary.checkpoint).state.rng_state;
  };
  const auto first = generator_after("a", 1);
  EXPECT_EQ(generator_after("b", 1), first);
  EXPECT_NE(generator_after("c", 2), first);
}

TEST_F(TrainerTest, RebuildingActivationsTrainsTheSameModel) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const auto run = [&](const std::string& strategy) {
      return train(
          config(strategy + "-" + precision, {"train.precision=" + precision, "model.num_layers=5",
                                              "recompute.strategy=" + strategy}));
    };
    const auto kept = run("none");
    EXPECT_EQ(weights(run("full")), weights(kept));
    EXPECT_EQ(weights(run("replay")), weights(kept));
    const auto inverse = run("inverse");
    EXPECT_NE(weights(inverse), weights(kept));
    EXPECT_NEAR(*inverse.validation_loss, *kept.validation_loss, 0.005 * *kept.validation_loss);
  }
}

TEST_F(TrainerTest, SpansThatAreReplayedAndDriftAreReportedAndOutliveAResume) {
  const std::vector<std::string> settings = {
      "model.num_layers=5",       "model.beta_init=0.9",     "recompute.strategy=inverse",
      "recompute.anchors=[3, 5]", "recompute.check_every=2", "recompute.max_amplification=1.2"};
  const auto summary = train(config("inverse", settings));
  std::ifstream file(summary.run_dir / "metrics.jsonl");
  std::vector<double> drifts;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json["kind"] != "step") continue;
    // Two blocks below the first anchor pass 1.2 at once, in all seven projections; one below the
    // second does not.
    EXPECT_EQ(json["replayed_spans"], 7);
    if (json.contains("recompute_drift")) drifts.push_back(json["recompute_drift"]);
  }
  EXPECT_EQ(drifts.size(), 4u);  // at steps 0, 2, 4 and 6
  EXPECT_EQ(drifts[0], 0);       // block 1, replayed
  EXPECT_GT(drifts[2], 0);       // block 4, inverted

  // With another bound nothing would be replayed, had the checkpoint not kept the decision.
  auto more = settings;
  more.back() = "recompute.max_amplification=100";
  more.push_back("train.steps=10");
  const auto resumed = train(config("resumed", more), {summary.checkpoint.string()});
  std::ifstream again(resumed.run_dir / "metrics.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(again, line));
  EXPECT_EQ(nlohmann::json::parse(line)["replayed_spans"], 7);
}

TEST_F(TrainerTest, AutoKeepsThePlanOfItsCheckpointAndTrainsTheSameModel) {
  const std::vector<std::string> deep = {"model.num_layers=5", "train.micro_batch=4",
                                         "checkpoint.every=4"};
  const auto kept = train(config("kept", deep));
  auto settings = deep;
  settings.emplace_back("recompute.strategy=auto");  // there is room for everything
  const auto summary = train(config("auto", settings));
  EXPECT_EQ(weights(summary), weights(kept));
  const auto plan_of = [](const fs::path& checkpoint) {
    return nlohmann::json::parse(open_checkpoint(checkpoint).state.extra).at("recompute_plan");
  };
  EXPECT_EQ(plan_of(summary.checkpoint)["blocks"][0], nlohmann::json({"graph"}));

  // A plan that today's planner would never choose: a resumed run goes on with it.
  auto content = content_of(summary.run_dir / "checkpoints" / "step-00000004");
  auto extra = nlohmann::json::parse(content.state.extra);
  for (auto& block : extra["recompute_plan"]["blocks"]) block = {"products", "outputs"};
  content.state.extra = extra.dump();
  const fs::path other = CheckpointStore(folder_ / "other", 1, 0).save(content);
  const auto resumed = train(config("resumed", settings), {other.string()});
  EXPECT_EQ(weights(resumed), weights(kept));
  EXPECT_EQ(plan_of(resumed.checkpoint)["blocks"], extra["recompute_plan"]["blocks"]);
}

TEST_F(TrainerTest, ResumeAutoTakesTheNewestAndKeepsOneLineOfMetricsPerStep) {
  train(config("run", {"checkpoint.every=5"}));
  fs::remove_all(folder_ / "run" / "checkpoints" / "step-00000008");
  const auto summary = train(config("run"), {"auto"});
  EXPECT_EQ(summary.steps, 8);
  std::ifstream metrics(folder_ / "run" / "metrics.jsonl");
  std::vector<int64_t> steps;
  for (std::string text; std::getline(metrics, text);) {
    const auto line = nlohmann::json::parse(text);
    if (line["kind"] == "step") steps.push_back(line["step"]);
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST_F(TrainerTest, TheLossFalls) {
  const auto summary = train(config("run", {"train.steps=60", "optimizer.lr=0.01"}));
  EXPECT_LT(*summary.validation_loss, 5.5);  // a uniform guess over 512 is 6.24
}

TEST_F(TrainerTest, AccumulationEqualsOneLargeBatch) {
  const auto parts = train(config("parts", {"train.steps=3"}));
  const auto whole = train(config("whole", {"train.steps=3", "train.micro_batch=4"}));
  EXPECT_NEAR(parts.final_loss, whole.final_loss, 1e-5);
}

TEST_F(TrainerTest, AUsedFolderIsRefusedAndLeftAlone) {
  train(config("run", {"train.steps=2"}));
  const auto before = digest_file(folder_ / "run" / "metrics.jsonl");
  try {
    train(config("run", {"train.steps=2"}));
    FAIL() << "expected an error";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("--resume auto"), std::string::npos) << error.what();
  }
  EXPECT_EQ(digest_file(folder_ / "run" / "metrics.jsonl"), before);
}

TEST_F(TrainerTest, AFolderThatIsHeldIsRefusedBeforeItsCheckpointsAreRead) {
  const auto summary = train(config("run", {"train.steps=2"}));
  fs::remove(summary.checkpoint / "manifest.json");  // would be refused too
  const auto holder = lock_folder(folder_ / "run");
  try {
    train(config("run"), {"auto"});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("for this process alone"), std::string::npos)
        << error.what();
  }
}

TEST_F(TrainerTest, NothingIsCreatedWhereTheDataDoesNotFit) {
  EXPECT_THROW(train(config("run", {"data.path=" + (folder_ / "nowhere").string()})), Error);
  EXPECT_THROW(train(config("run", {"model.vocab_size=100"})), UsageError);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(TrainerTest, ACheckpointOfAnotherModelIsRefusedByName) {
  const auto summary = train(config("run", {"train.steps=2"}));
  try {
    train(config("other", {"model.hidden_size=64"}), {summary.checkpoint.string()});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("another model"), std::string::npos) << error.what();
  }
}

TEST_F(TrainerTest, ACheckpointOfOtherDataIsRefusedAndOneThatDoesNotSayIsTaken) {
  const auto summary = train(config("run", {"train.steps=2"}));
  auto content = content_of(summary.checkpoint);
  auto extra = nlohmann::json::parse(content.state.extra);
  CheckpointStore store(folder_ / "changed");
  extra["data"] = "0123456789abcdef";
  content.state.extra = extra.dump();
  try {
    train(config("other"), {store.save(content).string()});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("0123456789abcdef"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(fs::exists(folder_ / "other"));
  extra.erase("data");
  content.state.extra = extra.dump();
  EXPECT_EQ(train(config("older"), {store.save(content).string()}).steps, 8);
}

TEST_F(TrainerTest, NonFiniteUpdatesAreSkippedAndEndTheRunWithoutOverwriting) {
  const auto sound = train(config("sound", {"train.steps=2", "checkpoint.every=1"}));
  // A checkpoint whose weights make every loss NaN, as a broken machine might.
  auto content = content_of(sound.checkpoint);
  for (auto& piece : content.model) {
    if (piece.name == "model.norm.weight") piece.values.fill_(NAN);
  }
  CheckpointStore store(folder_ / "broken", 5);
  const auto broken = store.save(content);
  try {
    train(config("run", {"train.max_bad_steps=3"}), {broken.string()});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("3 updates in a row"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(fs::exists(folder_ / "run" / "checkpoints"));
  std::ifstream metrics(folder_ / "run" / "metrics.jsonl");
  std::string line;
  std::getline(metrics, line);
  EXPECT_TRUE(nlohmann::json::parse(line)["skipped"].get<bool>());
}

TEST_F(TrainerTest, ASignalEndsTheRunAfterTheStepWithACheckpoint) {
  std::thread killer([metrics = folder_ / "run" / "metrics.jsonl"] {
    // The first step's line: by then the signal is caught.
    while (!fs::exists(metrics) ||
           read_text(metrics).find("\"step\",\"step\"") == std::string::npos) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::raise(SIGTERM);
  });
  const auto summary = train(config("run", {"train.steps=100000"}));
  killer.join();
  EXPECT_TRUE(summary.stopped);
  EXPECT_LT(summary.steps, 100000);
  EXPECT_EQ(open_checkpoint(summary.checkpoint).state.step, summary.steps);
}

TEST_F(TrainerTest, ASavedModelGivesTheSameLossAndText) {
  const auto summary = train(config("run", {"train.steps=5"}));
  TrainConfig choice;
  choice.device = DeviceChoice::kCpu;
  choice.precision = PrecisionChoice::kFp32;
  choice.threads = 1;
  const auto runtime = select_runtime(choice);
  auto saved = load_model(folder_ / "run", runtime);
  EvalOptions options{2, 32, 256};
  const auto validation = DataSet::open(shared_data(), "validation");
  EXPECT_EQ(evaluate(*saved.model, runtime.device, validation, options).loss,
            *summary.validation_loss);

  GenerateOptions sampling;
  sampling.max_tokens = 20;
  const std::vector<int32_t> prompt = {5, 6, 7};
  const auto text = generate(*saved.model, runtime.device, prompt, sampling);
  EXPECT_EQ(text.size(), 20u);
  EXPECT_EQ(generate(*saved.model, runtime.device, prompt, sampling), text);
  sampling.use_cache = false;
  EXPECT_EQ(generate(*saved.model, runtime.device, prompt, sampling), text);
  sampling.seed = 1;
  EXPECT_NE(generate(*saved.model, runtime.device, prompt, sampling), text);
}

TEST_F(TrainerTest, GeneratedIdsStayWithinTheTokenizersVocabulary) {
  CausalLM model(config("run").config.model);
  initialize(*model, 1);
  const torch::NoGradGuard no_grad;
  for (const int64_t vocab_size : {int64_t{512}, int64_t{30}}) {
    GenerateOptions options;
    options.max_tokens = 60;
    options.temperature = 5;
    options.top_p = 1;
    options.vocab_size = vocab_size;
    const auto ids = generate(*model, torch::kCPU, {5, 6, 7}, options);
    const auto greatest = *std::max_element(ids.begin(), ids.end());
    EXPECT_LT(greatest, vocab_size);
    EXPECT_GT(greatest, vocab_size / 2);
  }
  GenerateOptions options;
  options.vocab_size = 513;
  EXPECT_THROW(generate(*model, torch::kCPU, {5}, options), UsageError);
}

TEST(SampleToken, TopPAndTemperatureLimitTheChoice) {
  const auto logits = torch::log(torch::tensor({0.5f, 0.3f, 0.15f, 0.05f}));
  EXPECT_EQ(sample_token(logits, 0, 1, 0.99), 0);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.49), 0);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.51), 1);
  EXPECT_EQ(sample_token(logits, 1, 1, 0.96), 3);
  EXPECT_EQ(sample_token(logits, 1, 0.75, 0.999), 1);  // two tokens make 0.8
}

}  // namespace
}  // namespace crnet
