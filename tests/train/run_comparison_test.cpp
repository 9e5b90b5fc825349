#include "train/run_comparison.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "crnet/core/error.h"
#include "crnet/core/file.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTwoSteps =
    R"({"kind":"step","step":1,"loss":6.25,"grad_norm":1.5,"seconds":0.1,"recompute_drift":1e-8}
{"kind":"step","step":2,"loss":6.125,"grad_norm":1.25,"seconds":0.1}
)";

class RunComparisonTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("crnet_compare_" + std::to_string(getpid()));
    fs::create_directories(root_);
    for (const char* name : {"straight", "resumed"}) {
      content_[name].model = whole_pieces(
          {{"norm.weight", torch::arange(4.0)}, {"head.weight", torch::arange(6.0).view({2, 3})}});
      content_[name].optimizer =
          whole_pieces({{"exp_avg.head.weight", torch::zeros({2, 3})},
                        {"updates", torch::tensor(int64_t{2}, torch::kInt64)}});
      auto& state = content_[name].state;
      state.step = 2;
      state.rng_state = std::string("\0\xff", 2);
      state.run_config = std::string(R"({"train": {"run_dir": ")") + name +
                         R"("}, "data": {"verify": true}, "optimizer": {"lr": 0.1}})";
      state.extra = R"({"smoothed_loss": 6.2, "replayed": [[1, 2, 0]]})";
      metrics_[name] = kTwoSteps;
    }
  }
  void TearDown() override { fs::remove_all(root_); }

  RunRecord record(const std::string& name) {
    write_text_atomic(root_ / (name + ".jsonl"), metrics_[name]);
    return {root_ / (name + ".jsonl"),
            open_checkpoint(CheckpointStore(root_ / name).save(content_[name]))};
  }
  RunComparison compare() { return compare_runs(record("straight"), record("resumed")); }
  torch::Tensor& weight(size_t number) { return content_["resumed"].model.at(number).values; }

  fs::path root_;
  std::map<std::string, CheckpointContent> content_;
  std::map<std::string, std::string> metrics_;
};

TEST_F(RunComparisonTest, CountsWhatIsEqualAndPassesOverTimesDriftAndFolders) {
  metrics_["resumed"].replace(metrics_["resumed"].find("0.1"), 3, "7.5");
  metrics_["resumed"].replace(metrics_["resumed"].find("1e-8"), 4, "2e-8");
  metrics_["straight"] += R"({"kind":"validation","step":1,"loss":6.5})";  // cut short by a stop
  const auto found = compare();
  EXPECT_EQ(found.difference, "");
  EXPECT_EQ(found.num_steps, 2);
  EXPECT_EQ(found.num_tensors, 4);
  EXPECT_EQ(found.num_elements, 4 + 6 + 6 + 1);
}

TEST_F(RunComparisonTest, NamesTheFirstStepWhoseMetricsDiffer) {
  metrics_["resumed"].replace(metrics_["resumed"].find("6.125"), 5, "6.126");
  weight(0)[0] = 1;
  EXPECT_EQ(compare().difference, "step 2: step loss: 6.125 straight, 6.126 resumed");
}

TEST_F(RunComparisonTest, NamesAStepThatOneRunLacks) {
  metrics_["resumed"].resize(metrics_["resumed"].find('\n') + 1);
  EXPECT_EQ(compare().difference, "step 2: step: done straight, missing resumed");
}

TEST_F(RunComparisonTest, ComparesAValidationThatBothHave) {
  metrics_["straight"] += R"({"kind":"validation","step":2,"loss":6.5})";
  metrics_["resumed"] += R"({"kind":"validation","step":2,"loss":null})";
  EXPECT_EQ(compare().difference, "step 2: validation loss: 6.5 straight, null resumed");
}

TEST_F(RunComparisonTest, NamesWhatDiffersInTheState) {
  auto& state = content_["resumed"].state;
  const TrainState equal = state;
  state.samples_consumed = 8;
  EXPECT_EQ(compare().difference, "state /samples_consumed: 0 straight, 8 resumed");
  state = equal;
  state.rng_state.back() = 'x';
  EXPECT_NE(compare().difference.find("state /generator (hash): "), std::string::npos);
  state = equal;
  state.extra = R"({"smoothed_loss": 6.2, "replayed": [[1, 2, 5]]})";
  EXPECT_EQ(compare().difference, "state /extra/replayed/0/2: 0 straight, 5 resumed");
  state = equal;
  state.run_config = R"({"train": {"run_dir": ""}, "data": {}, "optimizer": {"lr": 0.2}})";
  EXPECT_EQ(compare().difference, "state /run_config/optimizer/lr: 0.1 straight, 0.2 resumed");
}

TEST_F(RunComparisonTest, FindsOneElementThatDiffersInItsLastBit) {
  weight(1)[1][2] = std::nextafter(5.0f, 6.0f);
  EXPECT_EQ(compare().difference,
            "weight head.weight[5]: 5 (0x40a00000) straight, 5.00000048 (0x40a00001) resumed; 1 of "
            "6 elements differ");
}

TEST_F(RunComparisonTest, NamesTheFirstOfSeveralElementsAndTheirNumber) {
  content_["resumed"].optimizer.at(0).values.view({-1}).slice(0, 2, 5).fill_(1);
  EXPECT_EQ(compare().difference,
            "optimizer exp_avg.head.weight[2]: 0 (0x00000000) straight, 1 (0x3f800000) resumed; 3 "
            "of 6 elements differ");
}

TEST_F(RunComparisonTest, ComparesTheUpdatesThatTheOptimizerHasCounted) {
  content_["resumed"].optimizer.at(1).values.fill_(3);
  EXPECT_EQ(compare().difference,
            "optimizer updates[0]: 2 (0x0000000000000002) straight, 3 (0x0000000000000003) "
            "resumed; 1 of 1 elements differ");
}

TEST_F(RunComparisonTest, TakesEqualBitsAsEqualAndNothingElse) {
  auto& ours = content_["straight"].model.at(0).values;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ours[1] = nan;
  weight(0)[1] = nan;
  EXPECT_EQ(compare().difference, "");
  weight(0).view(torch::kInt32)[1] += 1;  // a NaN of other bits
  EXPECT_EQ(compare().difference,
            "weight norm.weight[1]: nan (0x7fc00000) straight, nan (0x7fc00001) resumed; 1 of 4 "
            "elements differ");
  weight(0)[1] = nan;
  weight(0)[0] = -0.0;
  EXPECT_EQ(compare().difference,
            "weight norm.weight[0]: 0 (0x00000000) straight, -0 (0x80000000) resumed; 1 of 4 "
            "elements differ");
}

TEST_F(RunComparisonTest, NamesATensorThatIsMissingOrOfAnotherShape) {
  content_["resumed"].model.pop_back();
  EXPECT_EQ(compare().difference, "weight head.weight: F32 [2, 3] straight, none resumed");
  content_["resumed"].model.push_back(whole_piece("head.weight", torch::arange(6.0).view({3, 2})));
  EXPECT_EQ(compare().difference, "weight head.weight: F32 [2, 3] straight, F32 [3, 2] resumed");
}

TEST_F(RunComparisonTest, RefusesMetricsThatAreNone) {
  metrics_["straight"] += "torn";
  EXPECT_THROW(compare(), Error);
}

}  // namespace
}  // namespace crnet
