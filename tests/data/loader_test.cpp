#include "crnet/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "crnet/core/error.h"
#include "test_files.h"

namespace crnet {
namespace {

using namespace test;

constexpr int64_t kLength = 8;

std::vector<int64_t> values(const torch::Tensor& tensor) {
  const auto flat = tensor.contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}

// Tokens 0, 1, 2, … in three shards of uneven lengths: 12 + 37 + 6 windows of 8 tokens.
class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() : data_((write_counting_data(folder_.path(), {100, 301, 49}), open())) {}

  [[nodiscard]] DataSet open() const { return DataSet::open(folder_.path(), "train"); }

  // First tokens of the samples of the next `batches` batches.
  static std::vector<int64_t> starts(Loader& loader, int64_t batches) {
    std::vector<int64_t> result;
    for (int64_t i = 0; i < batches; ++i) {
      const auto first_column = values(loader.next().inputs.select(1, 0));
      result.insert(result.end(), first_column.begin(), first_column.end());
    }
    return result;
  }

  TempFolder folder_;
  DataSet data_;
};

constexpr int64_t kWindows = 12 + 37 + 6;

TEST(WindowOrder, IsAPermutationForEverySize) {
  for (const int64_t size : {1, 2, 3, 4, 5, 16, 17, 1000, 4097}) {
    const WindowOrder order(size, 3, 1);
    std::set<int64_t> seen;
    for (int64_t i = 0; i < size; ++i) seen.insert(order.at(i));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), size);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
  EXPECT_THROW(WindowOrder(0, 1), Error);
}

TEST(WindowOrder, SeedAndEpochEachGiveAnotherOrder) {
  const auto order = [](uint64_t seed, int64_t epoch) {
    const WindowOrder windows(100, seed, epoch);
    std::vector<int64_t> places;
    for (int64_t i = 0; i < 100; ++i) places.push_back(windows.at(i));
    return places;
  };
  EXPECT_EQ(order(1, 2), order(1, 2));
  EXPECT_NE(order(1, 2), order(1, 3));
  EXPECT_NE(order(1, 2), order(2, 2));
  EXPECT_NE(order(1, 2), order(2, 1));
}

TEST(WindowOrder, ShufflesWell) {
  // Of a fair shuffle: every window is equally likely at a place, and neighbours do not stay so.
  constexpr int64_t kSize = 10, kEpochs = 20'000;
  std::array<std::array<int64_t, kSize>, kSize> count{};
  int64_t neighbours = 0;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const WindowOrder order(kSize, 5, epoch);
    for (int64_t i = 0; i < kSize; ++i) {
      ++count[static_cast<size_t>(i)][static_cast<size_t>(order.at(i))];
      if (i > 0 && order.at(i) == order.at(i - 1) + 1) ++neighbours;
    }
  }
  // 2,000 expected with a standard deviation of 42; six of them.
  for (const auto& row : count) {
    for (const int64_t n : row) EXPECT_NEAR(static_cast<double>(n), 2000.0, 255.0);
  }
  // 9 · 1/10 a shuffle in the mean.
  EXPECT_NEAR(static_cast<double>(neighbours) / kEpochs, 0.9, 0.05);
}

TEST_F(LoaderTest, TargetsAreTheInputsShiftedByOne) {
  Loader loader(data_, {.batch = 5, .sequence_length = kLength});
  EXPECT_EQ(loader.num_windows(), kWindows);
  for (int i = 0; i < 20; ++i) {
    const auto batch = loader.next();
    EXPECT_EQ(batch.inputs.sizes(), (std::vector<int64_t>{5, kLength}));
    EXPECT_EQ(batch.inputs.dtype(), torch::kInt64);
    EXPECT_TRUE(torch::equal(batch.inputs + 1, batch.targets)) << "the tokens count up";
  }
}

TEST_F(LoaderTest, EveryEpochVisitsEveryWindowOnce) {
  Loader loader(data_, {.batch = 5, .sequence_length = kLength, .seed = 9});
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    const auto order = starts(loader, kWindows / 5);
    orders.insert(order);
    std::set<int64_t> seen(order.begin(), order.end());
    EXPECT_EQ(static_cast<int64_t>(seen.size()), kWindows);
    std::set<int64_t> expected;
    for (const auto& [first, windows] : std::map<int64_t, int64_t>{{0, 12}, {100, 37}, {401, 6}}) {
      for (int64_t i = 0; i < windows; ++i) expected.insert(first + i * kLength);
    }
    EXPECT_EQ(seen, expected);
  }
  EXPECT_EQ(orders.size(), 3U) << "each epoch has its own order";
}

TEST_F(LoaderTest, GlobalOrderDoesNotDependOnTheNumberOfProcesses) {
  constexpr int64_t kSamples = 160;
  Loader alone(data_, {.batch = 4, .sequence_length = kLength, .seed = 9});
  const auto expected = starts(alone, kSamples / 4);
  for (const int64_t world_size : {2, 4}) {
    std::vector<std::vector<int64_t>> of_process;
    for (int64_t process = 0; process < world_size; ++process) {
      Loader loader(data_, {.batch = 4,
                            .sequence_length = kLength,
                            .seed = 9,
                            .world_size = world_size,
                            .process = process});
      of_process.push_back(starts(loader, kSamples / 4 / world_size));
      EXPECT_EQ(loader.position(), kSamples);
    }
    for (int64_t s = 0; s < kSamples; ++s) {
      const auto& samples = of_process[static_cast<size_t>(s / 4 % world_size)];
      const int64_t place = s / (4 * world_size) * 4 + s % 4;
      EXPECT_EQ(samples[static_cast<size_t>(place)], expected[static_cast<size_t>(s)]);
    }
  }
}

TEST_F(LoaderTest, ResumingFromAPositionGivesTheSameBatches) {
  const LoaderOptions options{.batch = 4, .sequence_length = kLength, .seed = 2};
  Loader loader(data_, options);
  for (int i = 0; i < 17; ++i) (void)loader.next();
  EXPECT_EQ(loader.position(), 17 * 4) << "batches that were only prepared do not count";
  auto resumed_options = options;
  resumed_options.start_position = loader.position();
  Loader resumed(data_, resumed_options);
  EXPECT_EQ(resumed.position(), loader.position());
  EXPECT_EQ(starts(resumed, 30), starts(loader, 30));
  EXPECT_EQ(resumed.position(), loader.position());
}

TEST_F(LoaderTest, ResumingOnAnotherNumberOfProcessesLeavesNoSampleOut) {
  Loader whole(data_, {.batch = 2, .sequence_length = kLength, .seed = 2});
  const auto expected = starts(whole, 21);
  Loader first(data_, {
                          .batch = 2,
                          .sequence_length = kLength,
                          .seed = 2,
                          .start_position = 6,
                      });
  const auto rest = starts(first, 18);
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), expected.begin() + 6));
  for (int64_t process = 0; process < 3; ++process) {
    Loader loader(data_, {.batch = 2,
                          .sequence_length = kLength,
                          .seed = 2,
                          .world_size = 3,
                          .process = process,
                          .start_position = 2});
    const auto samples = starts(loader, 1);
    const auto begin = expected.begin() + 2 + 2 * process;
    EXPECT_TRUE(std::equal(samples.begin(), samples.end(), begin));
  }
}

TEST_F(LoaderTest, BatchMayBeLargerThanAnEpoch) {
  Loader loader(data_, {.batch = kWindows * 2, .sequence_length = kLength});
  const auto order = starts(loader, 1);
  EXPECT_EQ(static_cast<int64_t>(std::set(order.begin(), order.end()).size()), kWindows);
}

TEST_F(LoaderTest, SplitShorterThanAWindowIsNamedWithItsCounts) {
  const auto message =
      message_of<Error>([&] { Loader(data_, {.batch = 1, .sequence_length = 400}); });
  EXPECT_TRUE(contains(message, "401") && contains(message, "450 tokens")) << message;
  EXPECT_TRUE(contains(message, folder_.path().string())) << message;
}

TEST_F(LoaderTest, OptionsOutOfRangeAreTheUsersMistake) {
  EXPECT_THROW(Loader(data_, {.batch = 0}), UsageError);
  EXPECT_THROW(Loader(data_, {.sequence_length = 0}), UsageError);
  EXPECT_THROW(Loader(data_, {.sequence_length = 8, .world_size = 2, .process = 2}), UsageError);
  EXPECT_THROW(Loader(data_, {.sequence_length = 8, .start_position = -1}), UsageError);
  EXPECT_THROW(SequentialWindows(data_, 0, 8), UsageError);
}

TEST_F(LoaderTest, SequentialWindowsReadEverythingOnceInOrder) {
  SequentialWindows windows(data_, 10, kLength);
  EXPECT_EQ(windows.num_windows(), kWindows);
  std::vector<int64_t> seen;
  while (const auto batch = windows.next()) {
    EXPECT_TRUE(torch::equal(batch->inputs + 1, batch->targets));
    const auto first_column = values(batch->inputs.select(1, 0));
    seen.insert(seen.end(), first_column.begin(), first_column.end());
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), kWindows);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen[1], kLength);
  EXPECT_FALSE(windows.next());
}

TEST_F(LoaderTest, SequentialWindowsAreSharedOutAmongProcesses) {
  std::vector<int64_t> seen;
  for (int64_t process = 0; process < 3; ++process) {
    SequentialWindows windows(data_, 4, kLength, 50, 3, process);
    EXPECT_EQ(windows.num_windows(), 50);
    while (const auto batch = windows.next()) {
      const auto first_column = values(batch->inputs.select(1, 0));
      seen.insert(seen.end(), first_column.begin(), first_column.end());
    }
  }
  EXPECT_EQ(seen.size(), 50U);
  EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), 50U);
}

}  // namespace
}  // namespace crnet
