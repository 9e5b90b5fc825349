#include "dist/collectives.h"

namespace crnet {

using torch::Tensor;

WorkPtr start_gather(const ProcessGroupPtr& group, Tensor whole, Tensor own) {
  return group->_allgather_base(whole, own);
}

// Gloo has no sum in parts but by a sum of everything. An exchange of the parts, each added up
// where it belongs, moves half of that, in one order of adding whatever the size of the parts, and
// in fp32 also where bf16 travels.
ScatteredSum::ScatteredSum(const ProcessGroupPtr& group, Tensor terms) : terms_(std::move(terms)) {
  is_summed_ = group->getBackendType() == c10d::ProcessGroup::BackendType::NCCL;
  if (is_summed_) {
    received_ = torch::empty({terms_.numel() / group->getSize()}, terms_.options());
    work_ = group->_reduce_scatter_base(received_, terms_);
  } else {
    received_ =
        torch::empty({group->getSize(), terms_.numel() / group->getSize()}, terms_.options());
    std::vector<int64_t> equal_parts;
    Tensor flat = received_.view({-1});
    work_ = group->alltoall_base(flat, terms_, equal_parts, equal_parts);
  }
}

Tensor ScatteredSum::wait() {
  work_->wait();
  work_.reset();
  Tensor sum = is_summed_ ? received_.to(torch::kFloat32)
                          : received_.sum(c10::IntArrayRef{0}, /*keepdim=*/false, torch::kFloat32);
  terms_.reset();
  received_.reset();
  return sum;
}

}  // namespace crnet
