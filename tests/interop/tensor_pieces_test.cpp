#include "crnet/interop/tensor_pieces.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <functional>

#include "crnet/core/error.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

class TensorPiecesTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  // As `parts` processes would save it.
  [[nodiscard]] std::vector<fs::path> save(const NamedTensors& tensors, int64_t parts) const {
    std::vector<fs::path> paths;
    for (int64_t part = 0; part < parts; ++part) {
      paths.push_back(folder_ / (std::to_string(parts) + "-" + std::to_string(part)));
      save_pieces(paths.back(), share_of(whole_pieces(tensors), part, parts));
    }
    return paths;
  }

  fs::path folder_ = fs::path(testing::TempDir()) / ("crnet_pieces_" + std::to_string(getpid()));
};

NamedTensors some_tensors() {
  torch::manual_seed(1);
  return {{"a", torch::randn({3, 5})},
          {"b", torch::randn({7})},
          {"c", torch::randn({})},
          {"d", torch::arange(11)}};
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(TensorPiecesTest, AnyNumberOfSharesGivesTheTensorsBack) {
  for (const int64_t parts : {1, 2, 3, 4, 50}) {  // more than there are elements, too
    const TensorFiles files(save(some_tensors(), parts));
    EXPECT_EQ(files.names(), (std::vector<std::string>{"a", "b", "c", "d"}));
    for (const auto& [name, tensor] : some_tensors()) {
      EXPECT_TRUE(torch::equal(files.load(name), tensor)) << name << " in " << parts;
      EXPECT_EQ(files.spec(name).shape, tensor.sizes().vec());
    }
  }
}

TEST_F(TensorPiecesTest, SharesAreOfEqualSize) {
  for (int64_t part = 0; part < 4; ++part) {
    int64_t count = 0;
    for (const auto& piece : share_of(whole_pieces(some_tensors()), part, 4)) {
      count += piece.values.numel();
    }
    EXPECT_NEAR(static_cast<double>(count), (15 + 7 + 1 + 11) / 4.0, 1);
  }
}

TEST_F(TensorPiecesTest, SharesOfSharesAreWholesToo) {
  std::vector<fs::path> paths;
  for (int64_t part = 0; part < 2; ++part) {
    const auto half = share_of(whole_pieces(some_tensors()), part, 2);
    for (int64_t quarter = 0; quarter < 2; ++quarter) {
      paths.push_back(folder_ / (std::to_string(part) + std::to_string(quarter)));
      save_pieces(paths.back(), share_of(half, quarter, 2));
    }
  }
  const TensorFiles files(paths);
  for (const auto& [name, tensor] : some_tensors()) {
    EXPECT_TRUE(torch::equal(files.load(name), tensor)) << name;
  }
}

TEST_F(TensorPiecesTest, ReadTakesAStretchAcrossFiles) {
  const TensorFiles files(save(some_tensors(), 5));
  const auto a = some_tensors()[0].second;
  auto stretch = torch::zeros({9});
  files.read("a", 4, stretch);
  EXPECT_TRUE(torch::equal(stretch, a.view({-1}).narrow(0, 4, 9)));
  EXPECT_TRUE(contains(error_of([&] { files.read("a", 7, stretch); }), "at least 16 elements"));
}

TEST_F(TensorPiecesTest, ReadFillsAParameterInPlaceAndOneThatIsNotContiguous) {
  const TensorFiles files(save({{"w", torch::arange(6.0).reshape({2, 3})}}, 2));
  auto parameter = torch::zeros({2, 3}, torch::requires_grad());
  files.read("w", 0, parameter);
  EXPECT_TRUE(torch::equal(parameter.detach(), torch::arange(6.0).reshape({2, 3})));
  auto transposed = torch::zeros({3, 2}).t();
  files.read("w", 0, transposed);
  EXPECT_TRUE(torch::equal(transposed, torch::arange(6.0).reshape({2, 3})));
}

TEST_F(TensorPiecesTest, MissingAndDoubledFilesAreRefused) {
  auto paths = save(some_tensors(), 3);
  auto missing = paths, doubled = paths;
  missing.erase(missing.begin() + 1);
  EXPECT_TRUE(contains(error_of([&] { TensorFiles{missing}; }), "a file is missing"));
  doubled.push_back(paths[1]);
  EXPECT_TRUE(
      contains(error_of([&] { TensorFiles{doubled}; }), "in pieces that follow each other"));
  const auto other = save({{"a", torch::zeros({4, 5})}}, 2);
  EXPECT_TRUE(contains(error_of([&] {
                         TensorFiles({paths[0], other[1]});
                       }),
                       "a: expected F32 [3, 5] as in other files, got F32 [4, 5]"));
}

TEST_F(TensorPiecesTest, PiecesThatTheMetadataGetsWrongAreRefused) {
  const auto path = folder_ / "wrong";
  save_safetensors(path, {{"a", torch::zeros({2})}}, {{"pieces", R"({"a": {"shape": [4]}})"}});
  EXPECT_TRUE(contains(error_of([&] { TensorFiles({path}); }), "{name: {shape, begin}}"));
}

TEST_F(TensorPiecesTest, LoadIntoNamedRefusesAnotherModelBeforeWritingAnything) {
  const TensorFiles files(save({{"a", torch::ones({2})}, {"b", torch::ones({3})}}, 2));
  auto a = torch::zeros({2});
  const auto shape = error_of([&] {
    load_into_named(files, {{"a", a}, {"b", torch::zeros({4})}});
  });
  EXPECT_TRUE(contains(shape, "b: expected F32 [4], got F32 [3]; the file is of another model"));
  EXPECT_TRUE(contains(error_of([&] {
                         load_into_named(files, {{"a", a}});
                       }),
                       "b: expected no such tensor, got F32 [3]"));
  const auto missing = error_of([&] {
    load_into_named(files, {{"a", a}, {"b", torch::zeros({3})}, {"c", a}, {"d", a}});
  });
  EXPECT_TRUE(contains(missing, "c: expected F32 [2], got no tensor of that name (and 1 more"));
  EXPECT_TRUE(torch::equal(a, torch::zeros({2})));
  load_into_named(files, {{"a", a}, {"b", torch::zeros({3})}});
  EXPECT_TRUE(torch::equal(a, torch::ones({2})));
}

TEST_F(TensorPiecesTest, StoppedSaveThrows) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_TRUE(contains(error_of([&] {
                         save_pieces(folder_ / "stopped", whole_pieces(some_tensors()),
                                     stop.get_token());
                       }),
                       "told to stop"));
}

}  // namespace
}  // namespace crnet
