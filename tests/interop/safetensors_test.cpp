#include "crnet/interop/safetensors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "crnet/core/error.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("crnet_safetensors_" + std::to_string(getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
    path_ = folder_ / "tensors.safetensors";
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// A file with this JSON as its header, then `data_bytes` zeros.
  void write_raw(const std::string& header, size_t data_bytes) const {
    const uint64_t length = header.size();
    OutputFile file(path_);
    file.write(&length, sizeof length);
    file.write(header + std::string(data_bytes, '\0'));
    file.close();
  }

  fs::path folder_;
  fs::path path_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" lacks \"" << part << "\"";
}

NamedTensors one_of_each_dtype() {
  torch::manual_seed(7);
  const auto values = torch::randn({3, 5}, torch::kFloat64) * 100;
  NamedTensors tensors;
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kFloat16, torch::kBFloat16,
                           torch::kInt64, torch::kInt32, torch::kInt16, torch::kInt8}) {
    tensors.emplace_back(std::string("t.") + torch::toString(dtype), values.to(dtype));
  }
  tensors.emplace_back("t.Byte", values.abs().to(torch::kUInt8));
  tensors.emplace_back("t.Bool", values > 0);
  tensors.emplace_back("scalar", torch::tensor(0.5f));
  tensors.emplace_back("empty", torch::empty({0, 4}));
  tensors.emplace_back("transposed", torch::arange(12.0).reshape({3, 4}).t());
  tensors.emplace_back("every second", torch::arange(10).slice(0, 0, 10, 2));
  return tensors;
}

TEST_F(SafetensorsTest, EveryDtypeAndLayoutComesBackBitForBit) {
  const auto tensors = one_of_each_dtype();
  const auto digest = save_safetensors(path_, tensors, {{"format", "pt"}, {"note", "ä \"x\""}});
  EXPECT_EQ(digest, digest_file(path_));
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.names().size(), tensors.size());
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}, {"note", "ä \"x\""}}));
  for (const auto& [name, tensor] : tensors) {
    const auto loaded = file.load(name);
    EXPECT_EQ(loaded.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(loaded, tensor)) << name;
  }
}

TEST_F(SafetensorsTest, NanAndSignedZeroKeepTheirBits) {
  const auto bits = torch::tensor({int32_t{0x7fc12345}, INT32_MIN, int32_t{1}}, torch::kInt32);
  save_safetensors(path_, {{"x", bits.view(torch::kFloat32)}});
  EXPECT_TRUE(torch::equal(SafetensorsFile(path_).load("x").view(torch::kInt32), bits));
}

TEST_F(SafetensorsTest, EveryTensorStartsAtAMultipleOfItsElement) {
  save_safetensors(path_, one_of_each_dtype());
  const SafetensorsFile file(path_);
  for (const auto& name : file.names()) {
    const auto& info = file.info(name);
    EXPECT_EQ(info.offset % torch::elementSize(info.dtype), 0u) << name;
  }
}

TEST_F(SafetensorsTest, FileWithoutTensorsIsSound) {
  save_safetensors(path_, {});
  EXPECT_TRUE(SafetensorsFile(path_).names().empty());
}

TEST_F(SafetensorsTest, ReadFillsPartOfATensorAndNamesWhatDoesNotFit) {
  save_safetensors(path_, {{"w", torch::arange(6.0).reshape({2, 3})}});
  const SafetensorsFile file(path_);
  auto part = torch::zeros({2});
  file.read("w", 3, part);
  EXPECT_TRUE(torch::equal(part, torch::tensor({3.0f, 4.0f})));
  const auto beyond = error_of([&] { file.read("w", 5, part); });
  EXPECT_TRUE(contains(beyond, path_.string() + ": w: expected a contiguous target on the CPU "
                                                "within F32 [2, 3], got F32 [2] at 5"));
  EXPECT_TRUE(contains(error_of([&] { file.read("w", 0, torch::zeros({2}, torch::kInt32)); }),
                       "got I32 [2] at 0"));
  EXPECT_TRUE(contains(error_of([&] { (void)file.load("v.weight"); }), "v.weight"));
}

TEST_F(SafetensorsTest, WhatTheFormatCannotHoldIsRefusedByName) {
  const auto zeros = torch::zeros({2});
  const auto save = [&](const NamedTensors& tensors) {
    return error_of([&] { save_safetensors(path_, tensors); });
  };
  EXPECT_TRUE(contains(save({{"w", zeros}, {"w", zeros}}), "w twice"));
  EXPECT_TRUE(contains(save({{"w", torch::Tensor()}}), "w: expected a tensor"));
  EXPECT_TRUE(contains(save({{"w", zeros.to(torch::kComplexFloat)}}), "w: expected a dtype"));
  EXPECT_TRUE(contains(save({{"w", zeros.to_sparse()}}), "w: expected a dense tensor"));
  EXPECT_TRUE(contains(save({{"__metadata__", zeros}}), "__metadata__"));
  EXPECT_TRUE(contains(save({{"\xff", zeros}}), path_.string()));
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(SafetensorsTest, FileCutOffAnywhereIsRefused) {
  save_safetensors(path_, {{"a", torch::ones({4})}, {"b", torch::ones({2}, torch::kInt8)}});
  const auto size = fs::file_size(path_);
  for (uint64_t kept = 0; kept < size; ++kept) {
    fs::copy_file(path_, folder_ / "cut", fs::copy_options::overwrite_existing);
    fs::resize_file(folder_ / "cut", kept);
    const auto message = error_of([&] { SafetensorsFile file(folder_ / "cut"); });
    EXPECT_TRUE(contains(message, "/cut: ")) << "at " << kept << " of " << size;
  }
}

struct Malformed {
  const char* header;
  size_t data_bytes;
  const char* reason;
};

TEST_F(SafetensorsTest, MalformedHeaderIsRefusedWithItsReason) {
  const std::vector<Malformed> cases{
      {"not json", 0, "expected a JSON header"},
      {"[1, 2]", 0, "expected a JSON object"},
      {R"({"a": 3})", 0, "a: "},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "data_offsets"},
      {R"({"a":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}})", 8, "got F7"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "expected 8 bytes for F32"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "within 4 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}})", 8, "got 8 to 4"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "a: expected a shape"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "shape"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "the tensors overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "leave a hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 9, "expected 4 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "got a twice"},
      {R"({"__metadata__":{"x":1}})", 0, "__metadata__: "},
  };
  for (const auto& [header, data_bytes, reason] : cases) {
    write_raw(header, data_bytes);
    const auto message = error_of([&] { SafetensorsFile file(path_); });
    EXPECT_TRUE(contains(message, reason)) << header;
    EXPECT_TRUE(contains(message, path_.string())) << header;
  }
}

TEST_F(SafetensorsTest, HeaderLongerThanTheFileIsRefused) {
  const uint64_t length = uint64_t{1} << 62;
  OutputFile file(path_);
  file.write(&length, sizeof length);
  file.close();
  EXPECT_TRUE(contains(error_of([&] { SafetensorsFile opened(path_); }), "it is cut off"));
}

/// Runs a Python program with the test's folder as its argument; its exit status.
int run_python(const fs::path& folder, const std::string& program) {
  OutputFile script(folder / "script.py");
  script.write(program);
  script.close();
  const std::string python = std::getenv("CRNET_PYTHON");
  return std::system(
      ("'" + python + "' '" + (folder / "script.py").string() + "' '" + folder.string() + "'")
          .c_str());
}

TEST_F(SafetensorsTest, PythonReadsWhatIsWrittenHere) {
  if (std::getenv("CRNET_PYTHON") == nullptr) GTEST_SKIP() << "CRNET_PYTHON is not set";
  save_safetensors(path_, one_of_each_dtype(), {{"format", "pt"}});
  EXPECT_EQ(run_python(folder_, R"(
import sys, torch
from safetensors import safe_open
with safe_open(sys.argv[1] + "/tensors.safetensors", "pt") as f:
    assert f.metadata() == {"format": "pt"}, f.metadata()
    t = {k: f.get_tensor(k) for k in f.keys()}
assert len(t) == 14, len(t)
v = t["t.Double"]
assert v.shape == (3, 5) and v.abs().sum() > 100
for name, dtype in [("Float", torch.float32), ("Half", torch.float16), ("BFloat16", torch.bfloat16),
                    ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16)]:
    assert t["t." + name].dtype == dtype, name
    assert torch.equal(t["t." + name], v.to(dtype)), name
assert torch.equal(t["t.Bool"], v > 0)
assert t["scalar"].shape == () and t["scalar"] == 0.5
assert t["empty"].shape == (0, 4)
assert torch.equal(t["transposed"], torch.arange(12.0).reshape(3, 4).T)
assert torch.equal(t["every second"], torch.arange(0, 10, 2))
)"),
            0);
}

TEST_F(SafetensorsTest, WhatPythonWritesIsReadHere) {
  if (std::getenv("CRNET_PYTHON") == nullptr) GTEST_SKIP() << "CRNET_PYTHON is not set";
  ASSERT_EQ(run_python(folder_, R"(
import sys, torch
from safetensors.torch import save_file
save_file({"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5], dtype=torch.bfloat16),
           "n": torch.tensor(-3), "e": torch.empty(0)},
          sys.argv[1] + "/tensors.safetensors", {"k": "v"})
)"),
            0);
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata(), (Metadata{{"k", "v"}}));
  EXPECT_TRUE(torch::equal(file.load("w"), torch::arange(6.0).reshape({2, 3})));
  EXPECT_TRUE(torch::equal(file.load("b"), torch::tensor({1.5}, torch::kBFloat16)));
  EXPECT_EQ(file.load("n").item<int64_t>(), -3);
  EXPECT_EQ(file.load("e").numel(), 0);
}

TEST_F(SafetensorsTest, BytesAreThoseOfPythonsWriter) {
  if (std::getenv("CRNET_PYTHON") == nullptr) GTEST_SKIP() << "CRNET_PYTHON is not set";
  ASSERT_EQ(run_python(folder_, R"(
import sys, torch
from safetensors.torch import save_file
save_file({"w": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16),
           "n": torch.tensor(-3)}, sys.argv[1] + "/python.safetensors", {"k": "v"})
)"),
            0);
  save_safetensors(path_,
                   {{"w", torch::arange(6.0).reshape({2, 3})},
                    {"a", torch::ones({3}, torch::kBFloat16)},
                    {"n", torch::tensor(int64_t{-3})}},
                   {{"k", "v"}});
  EXPECT_EQ(read_text(path_), read_text(folder_ / "python.safetensors"));
}

}  // namespace
}  // namespace crnet
