#include "crnet/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <fstream>
#include <functional>
#include <random>

#include "crnet/core/error.h"
#include "crnet/core/file.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) /
            ("crnet_checkpoint_" + std::to_string(getpid()) + "_" +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    store_ = root_ / "run" / "checkpoints";
    fs::create_directories(root_);
    write_text_atomic(root_ / "spiece.model", "a tokenizer");
  }
  void TearDown() override { fs::remove_all(root_); }

  /// Every number in it is the step, so that a mixture of two checkpoints shows.
  [[nodiscard]] CheckpointContent content(int64_t step) const {
    const auto value = static_cast<double>(step);
    CheckpointContent made;
    made.model =
        whole_pieces({{"model.norm.weight", torch::full({64}, value)},
                      {"lm_head.weight", torch::full({100, 64}, value, torch::kBFloat16)}});
    made.optimizer = whole_pieces({{"exp_avg.lm_head.weight", torch::full({100, 64}, value)}});
    made.state.step = step;
    made.state.samples_consumed = step * 16;
    made.state.tokens_seen = step * 4096;
    made.state.crnet_version = "0.1.0";
    made.tokenizer = root_ / "spiece.model";
    return made;
  }

  [[nodiscard]] std::vector<std::string> names_in_store() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(store_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path root_;
  fs::path store_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string open_error(const fs::path& folder) {
  return error_of([&] { (void)open_checkpoint(folder); });
}

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" lacks \"" << part << "\"";
}

void flip_bit(const fs::path& path, int64_t position) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(position);
  const char changed = static_cast<char>(file.get() ^ 1);
  file.seekp(position);
  file.put(changed);
}

void expect_all_is_step(const Checkpoint& checkpoint) {
  const auto step = static_cast<double>(checkpoint.state.step);
  for (const auto& file : {checkpoint.model(), checkpoint.optimizer()}) {
    for (const auto& name : file.names()) {
      const auto expected = torch::full({1}, step, torch::TensorOptions(file.spec(name).dtype));
      EXPECT_TRUE(file.load(name).eq(expected).all().item<bool>()) << name << " at step " << step;
    }
  }
}

TEST_F(CheckpointTest, EverythingComesBackBitForBit) {
  auto saved = content(100);
  torch::manual_seed(3);
  saved.model[0].values = torch::randn({64});
  saved.state.skipped_steps = 2;
  saved.state.rng_state = std::string("\0\x01\xff state", 9);
  saved.state.model_config = R"({"hidden":64})";
  saved.state.run_config = R"({"train":{"lr":0.1,"steps":100}})";
  saved.state.extra = R"({"smoothed_loss":3.141592653589793})";
  CheckpointStore store(store_);
  const auto folder = store.save(saved);
  EXPECT_EQ(folder, store_ / "step-00000100");
  const auto opened = open_checkpoint(folder);
  EXPECT_EQ(opened.state, saved.state);
  EXPECT_EQ(opened.folder, folder);
  for (const auto& piece : saved.model) {
    EXPECT_TRUE(torch::equal(opened.model().load(piece.name), piece.values)) << piece.name;
  }
  for (const auto& piece : saved.optimizer) {
    EXPECT_TRUE(torch::equal(opened.optimizer().load(piece.name), piece.values)) << piece.name;
  }
  EXPECT_EQ(read_text(opened.tokenizer()), "a tokenizer");
}

TEST_F(CheckpointTest, WithoutTokenizerAsksForItByName) {
  auto saved = content(1);
  saved.tokenizer.clear();
  const auto opened = open_checkpoint(CheckpointStore(store_).save(saved));
  EXPECT_TRUE(contains(error_of([&] { (void)opened.tokenizer(); }), "tokenizer.model"));
}

TEST_F(CheckpointTest, ChangedBitInAnyFileIsRefusedByName) {
  CheckpointStore store(store_);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "tokenizer.model"}) {
    const auto folder = store.save(content(100));
    const auto size = static_cast<int64_t>(fs::file_size(folder / name));
    for (const int64_t position : {int64_t{0}, size / 2, size - 1}) {
      flip_bit(folder / name, position);
      EXPECT_TRUE(contains(open_error(folder), (folder / name).string())) << position;
      flip_bit(folder / name, position);
    }
    EXPECT_EQ(open_checkpoint(folder).state.step, 100);
  }
}

TEST_F(CheckpointTest, ChangedManifestIsRefusedByName) {
  const auto folder = CheckpointStore(store_).save(content(100));
  const auto path = folder / "manifest.json";
  const auto text = read_text(path);
  for (size_t i = 0; i < text.size(); ++i) {
    if (std::isspace(static_cast<unsigned char>(text[i])) != 0) continue;
    flip_bit(path, static_cast<int64_t>(i));
    EXPECT_TRUE(contains(open_error(folder), path.string())) << "byte " << i;
    flip_bit(path, static_cast<int64_t>(i));
  }
  fs::resize_file(path, text.size() / 2);
  EXPECT_TRUE(contains(open_error(folder), path.string()));
}

TEST_F(CheckpointTest, MissingOrShortFileIsRefusedByName) {
  CheckpointStore store(store_);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "tokenizer.model"}) {
    const auto folder = store.save(content(100));
    fs::resize_file(folder / name, 5);
    EXPECT_TRUE(contains(open_error(folder), (folder / name).string() + ": expected"));
    fs::remove(folder / name);
    EXPECT_TRUE(contains(open_error(folder), (folder / name).string() + ", got no file"));
  }
  const auto folder = store.save(content(100));
  fs::remove(folder / "manifest.json");
  EXPECT_TRUE(contains(open_error(folder), "manifest.json, got no such file"));
  EXPECT_TRUE(contains(open_error(root_ / "nowhere"), "nowhere/manifest.json"));
}

TEST_F(CheckpointTest, OtherFormatVersionIsRefused) {
  const auto folder = CheckpointStore(store_).save(content(100));
  auto text = read_text(folder / "manifest.json");
  const std::string version = "\"format_version\": 2";
  ASSERT_NE(text.find(version), std::string::npos);
  text.replace(text.find(version), version.size(), "\"format_version\": 7");
  write_text_atomic(folder / "manifest.json", text);
  EXPECT_TRUE(contains(open_error(folder), "expected format version 1 to 2, got 7"));
}

TEST_F(CheckpointTest, NewestSoundFallsBackAndRemovesNothing) {
  CheckpointStore store(store_, 10);
  for (const int64_t step : {100, 200, 300, 400}) store.save(content(step));
  EXPECT_EQ(store.newest_sound()->state.step, 400);
  flip_bit(store_ / "step-00000400" / "model.safetensors", 9000);
  fs::remove(store_ / "step-00000300" / "manifest.json");
  testing::internal::CaptureStderr();
  const auto found = store.newest_sound();
  const auto log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->state.step, 200);
  EXPECT_TRUE(contains(log, "step-00000400/model.safetensors: expected the hash"));
  EXPECT_TRUE(contains(log, "step-00000300/manifest.json"));
  EXPECT_EQ(store.list().size(), 4u);
}

TEST_F(CheckpointTest, NoSoundOneIsNone) {
  CheckpointStore store(store_);
  EXPECT_TRUE(store.list().empty());
  EXPECT_FALSE(store.newest_sound().has_value());
  EXPECT_FALSE(fs::exists(store_));
  fs::remove(store.save(content(1)) / "manifest.json");
  EXPECT_FALSE(store.newest_sound().has_value());
}

TEST_F(CheckpointTest, PruningKeepsTheLastAndTheDivisibleOnes) {
  CheckpointStore store(store_, 2, 300);
  for (int64_t step = 100; step <= 1000; step += 100) store.save(content(step));
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000300", "step-00000600",
                                                        "step-00000900", "step-00001000"}));
}

TEST_F(CheckpointTest, PruningCountsNeitherRefusedNorAbandonedOnes) {
  CheckpointStore(store_, 10).save(content(100));
  CheckpointStore(store_, 10).save(content(200));
  flip_bit(store_ / "step-00000200" / "model.safetensors", 9000);
  CheckpointStore store(store_, 2);
  EXPECT_EQ(store.newest_sound()->state.step, 100);
  store.save(content(150));
  EXPECT_EQ(names_in_store(),
            (std::vector<std::string>{"step-00000100", "step-00000150", "step-00000200"}));
  store.save(content(200));
  EXPECT_EQ(store.newest_sound()->state.step, 200);
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000150", "step-00000200"}));
}

TEST_F(CheckpointTest, SavingAStepAgainReplacesIt) {
  CheckpointStore store(store_);
  store.save(content(100));
  auto again = content(100);
  again.state.skipped_steps = 5;
  store.save(again);
  EXPECT_EQ(store.newest_sound()->state.skipped_steps, 5);
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000100"}));
}

TEST_F(CheckpointTest, LeftoversOfKilledRunsGoWithTheNextSave) {
  fs::create_directories(store_ / ".tmp-step-00000050");
  write_text_atomic(store_ / ".tmp-step-00000050" / "model.safetensors", "half");
  CheckpointStore store(store_);
  EXPECT_TRUE(store.list().empty());
  EXPECT_TRUE(fs::exists(store_ / ".tmp-step-00000050"));
  store.save(content(100));
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000100"}));
}

TEST_F(CheckpointTest, FullDiskLeavesEarlierCheckpointsAndNothingElse) {
  CheckpointStore store(store_);
  store.save(content(100));
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{10'000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const auto message = error_of([&] { store.save(content(200)); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(message, "expected to save " + (store_ / "step-00000200").string()));
  EXPECT_TRUE(contains(message, "File too large"));
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000100"}));
  EXPECT_EQ(store.newest_sound()->state.step, 100);
}

TEST_F(CheckpointTest, FolderThatCannotBeWrittenIsNamed) {
  fs::create_directories(store_.parent_path());
  write_text_atomic(store_, "a file where the folder should be");
  CheckpointStore store(store_);
  EXPECT_TRUE(contains(error_of([&] { store.save(content(1)); }), store_.string()));
  if (geteuid() == 0) return;  // permissions do not bind root
  fs::remove(store_);
  store.save(content(100));
  fs::permissions(store_, fs::perms::owner_read | fs::perms::owner_exec);
  const auto message = error_of([&] { store.save(content(200)); });
  fs::permissions(store_, fs::perms::owner_all);
  EXPECT_TRUE(contains(message, "Permission denied"));
  EXPECT_EQ(names_in_store(), (std::vector<std::string>{"step-00000100"}));
}

TEST_F(CheckpointTest, StateThatIsNoJsonAndMissingTokenizerAreRefused) {
  CheckpointStore store(store_);
  auto broken = content(100);
  broken.state.run_config = "{";
  EXPECT_TRUE(contains(error_of([&] { store.save(broken); }), "the run config"));
  auto lacking = content(100);
  lacking.tokenizer = root_ / "gone.model";
  EXPECT_TRUE(contains(error_of([&] { store.save(lacking); }), "gone.model"));
  EXPECT_TRUE(names_in_store().empty());
}

TEST_F(CheckpointTest, KeepingNoneIsRefused) {
  EXPECT_THROW(CheckpointStore(store_, 0), UsageError);
  EXPECT_THROW(CheckpointStore(store_, 1, -1), UsageError);
}

/// Saves step after step, and reports each through the pipe once it is saved.
[[noreturn]] void save_for_ever(CheckpointStore store, int64_t step, int pipe,
                                const std::function<CheckpointContent(int64_t)>& content) {
  try {
    for (;; ++step) {
      store.save(content(step));
      if (::write(pipe, &step, sizeof step) != sizeof step) _exit(2);
      // Every third one is saved once more: replacing must be as safe.
      if (step % 3 == 0) store.save(content(step));
    }
  } catch (...) {
    _exit(3);
  }
}

/// Runs such a child from `first` on, kills it a random while after its first report, and returns
/// the last step that it reported.
int64_t save_until_killed(const CheckpointStore& store, int64_t first, std::mt19937& random,
                          const std::function<CheckpointContent(int64_t)>& content) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    save_for_ever(store, first, ends[1], content);
  }
  ::close(ends[1]);
  int64_t reported = -1;
  EXPECT_EQ(::read(ends[0], &reported, sizeof reported), ssize_t{sizeof reported});
  ::usleep(std::uniform_int_distribution<useconds_t>(0, 30'000)(random));
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "it ended by itself";
  while (::read(ends[0], &reported, sizeof reported) == ssize_t{sizeof reported}) {
  }
  ::close(ends[0]);
  return reported;
}

TEST_F(CheckpointTest, KillAtAnyMomentLeavesTheNewestReportedOneSound) {
  // A forked child has no other threads: operators must not wait for a pool of them.
  torch::set_num_threads(1);
  CheckpointStore store(store_, 2);
  std::mt19937 random(std::random_device{}());
  int64_t next = 1;
  for (int round = 0; round < 20; ++round) {
    const auto reported =
        save_until_killed(store, next, random, [&](int64_t step) { return content(step); });
    const auto found = store.newest_sound();
    ASSERT_TRUE(found.has_value()) << "round " << round;
    EXPECT_GE(found->state.step, reported) << "round " << round;
    EXPECT_EQ(found->folder, store.list().back()) << "a checkpoint under its final name is sound";
    expect_all_is_step(*found);
    next = found->state.step + 1;
  }
  store.save(content(next));
  EXPECT_EQ(names_in_store().size(), 2u);
}

}  // namespace
}  // namespace crnet
