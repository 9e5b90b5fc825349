#include "crnet/model/config.h"

#include <gtest/gtest.h>

#include "config/config_files.h"

namespace crnet {
namespace {

using RankMap = std::map<std::string, int64_t>;

/// h 64, F 160, 2 blocks, 4 heads of 16, 2 heads of k and v.
ModelConfig small_config() {
  ModelConfig config;
  config.hidden_size = 64;
  config.ffn_size = 160;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.r = int64_t{16};
  return config;
}

std::string error_of(const ModelConfig& config) {
  return usage_error([&] { config.validate(); });
}

TEST(ModelConfig, WidthsOfTheSevenProjections) {
  const ModelConfig config = small_config();
  config.validate();
  const std::array<std::array<int64_t, 2>, 7> widths = {
      {{64, 64}, {64, 32}, {64, 32}, {64, 64}, {64, 160}, {64, 160}, {160, 64}}};
  for (int64_t p = 0; p < kNumProjections; ++p) {
    EXPECT_EQ(config.in_features(static_cast<Projection>(p)), widths[static_cast<size_t>(p)][0]);
    EXPECT_EQ(config.out_features(static_cast<Projection>(p)), widths[static_cast<size_t>(p)][1]);
  }
}

TEST(ModelConfig, RankIsOneNumberOnePerBlockOrByName) {
  ModelConfig config = small_config();
  EXPECT_EQ(config.low_rank(1, Projection::kUp), 16);
  config.r = std::vector<int64_t>{8, 24};
  config.validate();
  EXPECT_EQ(config.low_rank(0, Projection::kQ), 8);
  EXPECT_EQ(config.low_rank(1, Projection::kQ), 24);
  config.r = RankMap{{"default", 8}, {"down", 48}};
  config.validate();
  EXPECT_EQ(config.low_rank(1, Projection::kQ), 8);
  EXPECT_EQ(config.low_rank(1, Projection::kDown), 48);
}

TEST(ModelConfig, AllSevenNamesNeedNoDefault) {
  ModelConfig config = small_config();
  RankMap map;
  for (const char* name : kProjectionNames) map[name] = 4;
  config.r = map;
  config.validate();
  map.erase("gate");
  config.r = map;
  EXPECT_EQ(error_of(config),
            "model.r: expected a default or all seven projections, got none for gate");
}

TEST(ModelConfig, FullRankBlocksDependOnTheArchitecture) {
  ModelConfig config = small_config();
  EXPECT_TRUE(config.is_full_rank(0));
  EXPECT_FALSE(config.is_full_rank(1));
  config.low_rank_first_block = true;
  EXPECT_FALSE(config.is_full_rank(0));
  config.architecture = Architecture::kLlama;
  EXPECT_TRUE(config.is_full_rank(1));
  config.architecture = Architecture::kCoLA;
  EXPECT_FALSE(config.is_full_rank(0));
}

TEST(ModelConfig, HeadsMustDivide) {
  ModelConfig config = small_config();
  config.num_heads = 7;
  EXPECT_EQ(error_of(config),
            "model.num_heads: expected a divisor of model.hidden_size (64), got 7");
  config.num_heads = 64;
  EXPECT_EQ(error_of(config),
            "model.num_heads: expected an even head size for rotary positions, got 1 "
            "(model.hidden_size 64 / model.num_heads 64)");
  config.num_heads = 4;
  config.num_kv_heads = 3;
  EXPECT_EQ(error_of(config),
            "model.num_kv_heads: expected a divisor of model.num_heads (4), got 3");
}

TEST(ModelConfig, RankListHasOneNumberPerBlock) {
  ModelConfig config = small_config();
  config.r = std::vector<int64_t>{8, 8, 8};
  EXPECT_EQ(error_of(config),
            "model.r: expected one number per block, model.num_layers (2), got 3");
}

TEST(ModelConfig, UnknownProjectionNamesTheNearest) {
  ModelConfig config = small_config();
  config.r = RankMap{{"default", 8}, {"gates", 8}};
  EXPECT_EQ(error_of(config), "model.r.gates: unknown key; did you mean model.r.gate?");
}

TEST(ModelConfig, RankIsAtMostTheSmallerWidth) {
  ModelConfig config = small_config();
  config.r = int64_t{33};
  EXPECT_EQ(error_of(config), "model.r: expected at most 32 for k (64 x 32) in block 2, got 33");
  config.r = RankMap{{"default", 8}, {"v", 40}};
  EXPECT_EQ(error_of(config), "model.r.v: expected at most 32 for v (64 x 32) in block 2, got 40");
  config.r = RankMap{{"default", 40}, {"k", 8}, {"v", 8}, {"down", 65}};
  EXPECT_EQ(error_of(config),
            "model.r.down: expected at most 64 for down (160 x 64) in block 2, got 65");
}

TEST(ModelConfig, RankOfAFullRankBlockMayBeAnything) {
  ModelConfig config = small_config();
  config.r = std::vector<int64_t>{1000, 8};
  config.validate();
  config.low_rank_first_block = true;
  EXPECT_EQ(error_of(config), "model.r: expected at most 64 for q (64 x 64) in block 1, got 1000");
  config.architecture = Architecture::kLlama;
  config.validate();
}

TEST(ModelConfig, LimitsHoldForValuesSetInCode) {
  ModelConfig config = small_config();
  config.num_heads = 0;
  EXPECT_EQ(error_of(config), "model.num_heads: expected an integer >= 1, got 0");
}

}  // namespace
}  // namespace crnet
