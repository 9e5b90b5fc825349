#include "dist/sharded_unit.h"

#include <algorithm>

namespace crnet {
namespace {

using torch::Tensor;

// Elements: 256 bytes in fp32, so that a matrix begins where kernels like it to.
constexpr int64_t kAlignment = 64;

int64_t rounded_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Gives a tensor's memory back, or takes new; views of it come and go with it.
void resize_memory(const Tensor& tensor, size_t bytes) {
  c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  storage.set_data_ptr_noswap(storage.allocator()->allocate(bytes));
  storage.set_nbytes(bytes);
}

}  // namespace

int64_t part_of_unit(const std::vector<int64_t>& counts, int64_t num_processes) {
  int64_t end = 0;
  for (const int64_t count : counts) end += rounded_up(count, kAlignment);
  return rounded_up(end, kAlignment * num_processes) / num_processes;
}

ShardedUnit::ShardedUnit(const ParameterUnit& unit, ProcessGroupPtr group, ProcessGroupPtr replicas,
                         torch::Device device, bool releases)
    : group_(std::move(group)), replicas_(std::move(replicas)), releases_(releases) {
  lay_out(unit);
  const auto fp32 = torch::TensorOptions(device).dtype(torch::kFloat32);
  weights_ = torch::zeros({part_ * group_->getSize()}, fp32.dtype(unit.dtype));
  // Where the gathered weights are fp32 and stay, this process's part of them is the master.
  const bool shares = unit.dtype == torch::kFloat32 && !releases;
  master_ = shares ? own_part(weights_) : torch::zeros({part_}, fp32);
  const torch::NoGradGuard no_grad;
  for (auto& member : members_) member.parameter.set_data(of_member(weights_, member));
  make_pieces();
  if (releases) resize_memory(weights_, 0);
}

void ShardedUnit::lay_out(const ParameterUnit& unit) {
  int64_t end = 0;
  std::vector<int64_t> counts;
  for (const auto& [name, parameter] : unit.parameters) {
    members_.push_back({name, parameter, parameter.sizes().vec(), end, parameter.numel()});
    end += rounded_up(parameter.numel(), kAlignment);
    counts.push_back(parameter.numel());
  }
  part_ = part_of_unit(counts, group_->getSize());
}

Tensor ShardedUnit::own_part(const Tensor& whole) const {
  return whole.narrow(0, part_ * group_->getRank(), part_);
}

Tensor ShardedUnit::of_member(const Tensor& whole, const Member& member) const {
  return whole.narrow(0, member.offset, member.count).view(member.shape);
}

void ShardedUnit::make_pieces() {
  const int64_t begin = part_ * group_->getRank(), end = begin + part_;
  for (const auto& member : members_) {
    const int64_t first = std::max(begin, member.offset);
    const int64_t last = std::min(end, member.offset + member.count);
    if (first >= last) continue;
    pieces_.push_back({member.name, master_.narrow(0, first - begin, last - first), member.shape,
                       first - member.offset});
  }
}

void ShardedUnit::start_gather() {
  if (is_gathered_ || members_.empty()) return;
  is_gathered_ = true;
  const torch::NoGradGuard no_grad;
  if (weights_.storage().nbytes() == 0) resize_memory(weights_, weights_.nbytes());
  Tensor own = own_part(weights_);
  if (!own.is_alias_of(master_)) own.copy_(master_);
  gather_ = crnet::start_gather(group_, weights_, own);
}

void ShardedUnit::wait_for_weights() {
  if (gather_) gather_->wait();
  gather_.reset();
}

void ShardedUnit::release_weights() {
  if (!releases_) return;
  is_gathered_ = false;
  resize_memory(weights_, 0);
}

bool ShardedUnit::take_gradient(size_t member, bool last_micro_batch, torch::ScalarType wire) {
  const torch::NoGradGuard no_grad;
  Tensor& gradient = members_[member].parameter.mutable_grad();
  if (!gradients_.defined()) {
    // The only micro-batch needs no sum in fp32.
    const auto dtype = last_micro_batch ? wire : torch::kFloat32;
    gradients_ = torch::zeros_like(weights_, weights_.options().dtype(dtype));
  }
  of_member(gradients_, members_[member]).add_(gradient);
  gradient.reset();
  if (++num_taken_ < members_.size()) return false;
  num_taken_ = 0;
  if (last_micro_batch) sum_ = ScatteredSum(group_, std::exchange(gradients_, {}).to(wire));
  return last_micro_batch;
}

void ShardedUnit::finish_sum() {
  part_gradient_ = sum_.wait();
  if (!replicas_) return;
  std::vector<Tensor> one = {part_gradient_};
  replica_sum_ = replicas_->allreduce(one);
}

void ShardedUnit::finish_mean(int count) {
  if (replica_sum_) replica_sum_->wait();
  replica_sum_.reset();
  const torch::NoGradGuard no_grad;
  const Tensor mean = std::exchange(part_gradient_, {}).div_(count);
  for (auto& piece : pieces_) {
    const int64_t first = piece.values.storage_offset() - master_.storage_offset();
    piece.values.mutable_grad() = mean.narrow(0, first, piece.values.numel());
  }
}

}  // namespace crnet
