#include "train/step_profile.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

namespace crnet {
namespace {

using Names = std::vector<std::string_view>;

// Names that start with one of these (of kernels: that contain one) belong to the group; the first
// that fits counts.
struct GroupRule {
  const char* group;
  Names parts;
};

const std::array<GroupRule, 7>& rules() {
  static const std::array<GroupRule, 7> kRules = {{
      {"matrix products",
       {"crnet::product", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul",
        "aten::linear", "mkldnn::"}},
      {"softmax and loss",
       {"crnet::linear_cross_entropy", "aten::_log_softmax", "aten::log_softmax", "aten::gather",
        "aten::scatter_add", "aten::exp_"}},
      {"fused operators",
       {"crnet::rms_norm", "crnet::rope", "crnet::swiglu", "crnet::cross_layer_sum",
        "crnet::pass_over_gradient", "crnet::replay_low_rank", "crnet::invert_low_rank",
        "crnet::remake"}},
      {"copies and dtypes",
       {"aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous",
        "aten::repeat_interleave", "aten::cat"}},
      {"allocation and filling",
       {"aten::zero", "aten::fill_", "aten::full", "aten::ones", "aten::empty", "aten::new_",
        "aten::resize_"}},
      {"embedding", {"aten::embedding"}},
      {"pointwise and sums",
       {"aten::add", "aten::sub", "aten::mul", "aten::div", "aten::sum", "aten::silu",
        "aten::sigmoid", "aten::where", "aten::ge", "aten::reciprocal", "aten::neg", "aten::ne"}},
  }};
  return kRules;
}

// The same of kernels, by what their names contain.
const std::array<GroupRule, 8>& kernel_rules() {
  static const std::array<GroupRule, 8> kRules = {{
      {"attention", {"sdpa", "flash", "fmha", "cudnn", "attention"}},
      {"softmax and loss", {"cross_entropy", "softmax"}},
      {"fused operators", {"crnet::"}},
      {"optimizer", {"multi_tensor_apply", "LpNorm"}},
      {"matrix products", {"nvjet", "gemm", "gemv", "cutlass", "cublas", "splitKreduce"}},
      {"copies and dtypes", {"Memcpy", "copy_kernel", "CatArray", "copy_device_to_device"}},
      {"embedding",
       {"embedding", "gather", "radix_sort", "RadixSort", "compute_grad_weight", "sum_and_scatter",
        "unique_by_key"}},
      {"pointwise and sums", {"elementwise", "reduce_kernel", "Memset"}},
  }};
  return kRules;
}

constexpr const char* kAttention = "attention";
constexpr const char* kOptimizer = "optimizer";
constexpr const char* kOther = "other";

const char* group_of(const std::string& name) {
  if (name.find("attention") != std::string::npos) return kAttention;
  for (const auto& rule : rules()) {
    for (const auto part : rule.parts) {
      if (name.starts_with(part)) return rule.group;
    }
  }
  return kOther;
}

const char* group_of_kernel(const std::string& name) {
  for (const auto& rule : kernel_rules()) {
    for (const auto part : rule.parts) {
      if (name.find(part) != std::string::npos) return rule.group;
    }
  }
  return kOther;
}

// Without result, arguments and those of templates.
std::string short_name(const std::string& kernel) {
  constexpr std::string_view kVoid = "void ", kUnnamed = "(anonymous namespace)::";
  std::string name = kernel.starts_with(kVoid) ? kernel.substr(kVoid.size()) : kernel;
  if (const auto at = name.find(kUnnamed); at != std::string::npos) name.erase(at, kUnnamed.size());
  return name.substr(0, name.find_first_of("<("));
}

bool is_optimizer(const std::string& name) {
  return name == "crnet::clip" || name == "crnet::update" || name == "crnet::release_gradients";
}

// A range that has begun and not ended yet.
struct Open {
  uint64_t end_ns;
  OperatorTime* time;
  bool in_optimizer;
};

double milliseconds(uint64_t begin_ns, uint64_t end_ns) {
  return static_cast<double>(end_ns - begin_ns) / 1e6;
}

// Sums by group and name, over all steps.
class Sums {
 public:
  // `ranges` of one thread, outer before inner ones.
  void add(const std::vector<RecordedRange>& ranges) {
    std::vector<Open> open;
    for (const auto& range : ranges) {
      while (!open.empty() && open.back().end_ns <= range.begin_ns) open.pop_back();
      const bool is_step = range.name.starts_with(kStepRange);
      if (open.empty() && !is_step) continue;
      num_steps_ += is_step ? 1 : 0;
      const double own = milliseconds(range.begin_ns, range.end_ns);
      if (!open.empty()) open.back().time->milliseconds -= own;
      const bool in_optimizer =
          is_optimizer(range.name) || (!open.empty() && open.back().in_optimizer);
      OperatorTime& time = of(in_optimizer ? kOptimizer : group_of(range.name),
                              is_step ? "between operators" : range.name);
      time.milliseconds += own;
      time.calls += 1;
      open.push_back({range.end_ns, &time, in_optimizer});
    }
  }

  // `ranges` in the order in which they began.
  void add_kernels(const std::vector<RecordedRange>& ranges) {
    uint64_t end = 0, waited = 0;
    for (const auto& range : ranges) {
      num_steps_ += !range.is_kernel && range.name.starts_with(kStepRange) ? 1 : 0;
      if (!range.is_kernel) continue;
      OperatorTime& sum = of(group_of_kernel(range.name), short_name(range.name));
      sum.milliseconds += milliseconds(range.begin_ns, range.end_ns);
      sum.calls += 1;
      if (end != 0 && range.begin_ns > end) waited += range.begin_ns - end;
      end = std::max(end, range.end_ns);
    }
    of("no kernel", "between kernels").milliseconds = milliseconds(0, waited);
  }

  [[nodiscard]] std::vector<OperatorGroup> per_step() const {
    std::vector<OperatorGroup> groups;
    for (const auto& [name, operators] : sums_) {
      OperatorGroup& group = groups.emplace_back(OperatorGroup{name, 0, {}});
      for (auto [unused, time] : operators) {
        time.milliseconds /= static_cast<double>(num_steps_);
        time.calls /= static_cast<double>(num_steps_);
        group.milliseconds += time.milliseconds;
        group.operators.push_back(time);
      }
      sort_by_time(group.operators);
    }
    sort_by_time(groups);
    return groups;
  }

 private:
  OperatorTime& of(const std::string& group, const std::string& name) {
    OperatorTime& time = sums_[group][name];
    time.name = name;
    return time;
  }

  template <class Times>
  static void sort_by_time(Times& times) {
    std::sort(times.begin(), times.end(),
              [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
  }

  int64_t num_steps_ = 0;
  std::map<std::string, std::map<std::string, OperatorTime>> sums_;
};

}  // namespace

std::vector<OperatorGroup> break_down(std::vector<RecordedRange> ranges, bool of_kernels) {
  std::stable_sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
  });
  Sums sums;
  if (of_kernels) {
    const bool has_any = std::any_of(ranges.begin(), ranges.end(),
                                     [](const RecordedRange& range) { return range.is_kernel; });
    if (!has_any) return {};
    sums.add_kernels(ranges);
    return sums.per_step();
  }
  std::map<uint64_t, std::vector<RecordedRange>> by_thread;
  for (auto& range : ranges) by_thread[range.thread].push_back(std::move(range));
  for (const auto& [thread, own] : by_thread) sums.add(own);
  return sums.per_step();
}

}  // namespace crnet
