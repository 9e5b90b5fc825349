#include "train/checkpoint_saver.h"

#include <ATen/record_function.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>

#include "crnet/core/error.h"
#include "crnet/core/format.h"

namespace crnet {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// So that training may change the originals.
void copy_to_host(std::vector<TensorPiece>& pieces) {
  RECORD_USER_SCOPE("crnet::copy_to_host");
  for (auto& piece : pieces) {
    piece.values = piece.values.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true);
  }
}

// A share, as one process tells the first: {name: [bytes, xxh3], …}, or {"": why there is none}.
std::string share_to_text(const FileDigests& files) {
  Json json = Json::object();
  for (const auto& [name, digest] : files) json[name] = {digest.bytes, digest.xxh3};
  return json.dump();
}

FileDigests share_from_text(const std::string& text, size_t process) {
  FileDigests files;
  const Json json = Json::parse(text);
  if (json.contains("")) {
    throw Error(format("process %zu could not write its share: %s", process,
                       json[""].get<std::string>().c_str()));
  }
  for (const auto& [name, digest] : json.items()) files[name] = {digest.at(0), digest.at(1)};
  return files;
}

void block_signals() {  // they are for the main thread
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace

CheckpointSaver::~CheckpointSaver() {
  if (group_.size() > 1) thread_.request_stop();
  if (thread_.joinable()) thread_.join();  // a jthread's own end would ask it to stop
}

void CheckpointSaver::begin(CheckpointContent content, bool in_background) {
  const auto start = Clock::now();
  outcome_ = {};
  is_told_ = false;
  std::string prepared;  // the folder; where that fails "" and a line of why
  if (group_.is_first()) {
    try {
      prepared = store_.prepare(content.state.step).string();
    } catch (const Error& failure) {
      prepared = std::string("\n") + failure.what();
    }
  }
  const std::string folder = group_.gather(prepared, "the checkpoint")[0];
  if (folder.starts_with('\n')) {
    outcome_.failure = folder.substr(1);
    return;
  }
  num_saves_ += 1;
  if (in_background) {
    copy_to_host(content.model);
    copy_to_host(content.optimizer);
  }
  is_running_ = true;
  outcome_.wait_seconds = seconds_since(start);
  thread_ = std::jthread(
      [this, content = std::move(content), folder, start](const std::stop_token& stop) {
        block_signals();
        write(content, folder, stop);
        outcome_.seconds = seconds_since(start);
        is_running_ = false;
      });
  if (in_background) return;
  thread_.join();
  outcome_.wait_seconds = outcome_.seconds;
}

void CheckpointSaver::write(const CheckpointContent& content, const std::filesystem::path& folder,
                            const std::stop_token& stop) {
  RECORD_USER_SCOPE("crnet::write_checkpoint");
  std::string share;
  try {
    share = share_to_text(write_share(folder, content, group_.rank(), group_.size(), stop));
  } catch (const std::exception& failure) {
    share = Json{{"", failure.what()}}.dump();
  }
  try {
    group_.post(format("share %ld", static_cast<long>(num_saves_)), share);
    if (group_.is_first()) complete(content, share, stop);
  } catch (const std::exception& failure) {
    if (outcome_.failure.empty()) outcome_.failure = failure.what();
  }
}

void CheckpointSaver::complete(const CheckpointContent& content, const std::string& own_share,
                               const std::stop_token& stop) {
  FileDigests files;
  try {
    std::vector<std::string> shares = {own_share};
    if (group_.size() > 1) {
      shares = group_.collect(format("share %ld", static_cast<long>(num_saves_)), stop);
    }
    for (size_t process = 0; process < shares.size(); ++process) {
      files.merge(share_from_text(shares[process], process));
    }
  } catch (const std::exception& failure) {
    store_.abandon(content.state.step);
    throw Error(
        format("[checkpoint] expected to save the checkpoint of step %ld, got: %s; earlier "
               "ones are untouched",
               static_cast<long>(content.state.step), failure.what()));
  }
  for (const auto& [name, digest] : files) outcome_.bytes += digest.bytes;
  outcome_.folder = store_.commit(content, std::move(files));
}

std::optional<SaveOutcome> CheckpointSaver::ended() {
  if (is_running_ || std::exchange(is_told_, true)) return std::nullopt;
  return outcome_;
}

std::optional<SaveOutcome> CheckpointSaver::wait() {
  if (thread_.joinable()) {
    const auto start = Clock::now();
    thread_.join();
    // The thread's own end, after the save's, belongs to neither.
    outcome_.wait_seconds =
        std::min(outcome_.wait_seconds + seconds_since(start), outcome_.seconds);
  }
  return ended();
}

std::filesystem::path CheckpointSaver::latest() {
  const Json own = {outcome_.folder.string(), outcome_.failure};
  const Json first = Json::parse(group_.gather(own.dump(), "the checkpoint")[0]);
  const std::string failure = first.at(1);
  if (!failure.empty()) throw Error(failure);
  return first.at(0).get<std::string>();
}

}  // namespace crnet
