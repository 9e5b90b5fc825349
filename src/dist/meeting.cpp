#include "dist/meeting.h"

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "crnet/core/error.h"
#include "crnet/core/format.h"
#include "crnet/core/host.h"
#include "crnet/core/version.h"
#include "dist/patience.h"

namespace crnet {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Decided once: who has not come in time, or nobody.
constexpr const char *kMissingKey = "missing", *kNobody = "nobody";
// So long the process that serves the store stays for others to read who is missing, and so long
// they wait for its answer.
constexpr seconds kLinger{2}, kAnswerWithin{5};
constexpr int kLogErrors = 2;  // of TORCH_CPP_LOG_LEVEL, as a number

std::string place(const Launch& launch) {
  return format("%s:%d", launch.rendezvous_host.c_str(), launch.rendezvous_port);
}

[[noreturn]] void fail(const Launch& launch, const std::string& text) {
  throw Error(format("[dist] process %d of %d on %s: %s", launch.rank, launch.world_size,
                     host_name().c_str(), text.c_str()));
}

bool serves(const Launch& launch) {
  return launch.rank == 0 && !launch.store_is_served;
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, milliseconds patience) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(launch.rendezvous_port);
  options.isServer = serves(launch);
  options.waitWorkers = false;
  options.timeout = patience;
  try {
    // What listens there may be no store, and say nothing for ever.
    const auto store = within(patience + seconds(1), [host = launch.rendezvous_host, options] {
      return c10::make_intrusive<c10d::TCPStore>(host, options);
    });
    if (store) return *store;
  } catch (const std::exception& failure) {
    if (serves(launch)) {
      const std::string text = failure.what();
      fail(launch, "expected to serve the rendezvous at " + place(launch) +
                       ", got: " + text.substr(0, text.find('\n')) +
                       "; where another run has the port, choose one with MASTER_PORT");
    }
  }
  fail(launch, format("expected the rendezvous of process 0 at %s within %ld s, got none; see what "
                      "process 0 says, and that MASTER_ADDR and MASTER_PORT are right",
                      place(launch).c_str(),
                      static_cast<long>(std::chrono::duration_cast<seconds>(patience).count())));
}

// The first key says whose store this is: a client that meets another run there must not join it.
void check_job(c10d::Store& store, const Launch& launch) {
  const std::string mine = format("crnet %s with %d processes, job %s", kVersion, launch.world_size,
                                  launch.job.empty() ? "unnamed" : launch.job.c_str());
  const auto bytes = to_bytes(mine);
  // Where process 0 serves, it says so itself: another run's client may be faster.
  const bool says = serves(launch) || launch.store_is_served;
  const auto there =
      to_text(says ? store.compareSet("crnet/job", {}, bytes) : store.get("crnet/job"));
  if (there == mine) return;
  fail(launch, "expected " + mine + " at " + place(launch) + ", got " + there +
                   "; another run has the port, or another version of crnet is installed there; "
                   "choose a port with MASTER_PORT");
}

// A store that torchrun's agent serves outlives attempts. All processes start anew together, so
// each can tell the attempt from how often it has come itself.
StorePtr of_this_attempt(const StorePtr& store, const Launch& launch) {
  const int64_t attempt = store->add(format("crnet/starts/%d", launch.rank), 1);
  if (attempt > 1 && !launch.store_is_served) {
    fail(launch, format("expected to be the only process %d, got another at %s", launch.rank,
                        place(launch).c_str()));
  }
  return c10::make_intrusive<c10d::PrefixStore>(format("crnet/%ld/", static_cast<long>(attempt)),
                                                store);
}

std::string member_key(int rank) {
  return format("member/%d", rank);
}

std::string list_missing(c10d::Store& store, const Launch& launch) {
  std::string missing;
  int count = 0;
  for (int rank = 0; rank < launch.world_size; ++rank) {
    if (store.check({member_key(rank)}) || ++count > 8) continue;
    missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
  }
  if (count == 0) return kNobody;
  return missing + (count > 8 ? format(" and %d more", count - 8) : "");
}

// Who is missing is decided once, by the first to see all or to give up, so that all say the same.
std::string settle_who_is_missing(c10d::Store& store, const Launch& launch,
                                  const std::vector<std::string>& keys, seconds patience) {
  std::string found = kNobody;
  try {
    store.wait(launch.rank == 0 ? keys : std::vector<std::string>{kMissingKey}, patience);
  } catch (const c10::DistStoreError&) {  // in time
    found = list_missing(store, launch);
  }
  return to_text(store.compareSet(kMissingKey, {}, to_bytes(found)));
}

std::vector<Member> wait_for_all(c10d::Store& store, const Launch& launch, seconds patience) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < launch.world_size; ++rank) keys.push_back(member_key(rank));
  store.set(keys[static_cast<size_t>(launch.rank)],
            to_bytes(format("%ld %s", static_cast<long>(::getpid()), host_name().c_str())));
  const std::string missing = settle_who_is_missing(store, launch, keys, patience);
  if (missing != kNobody) {
    if (serves(launch)) std::this_thread::sleep_for(kLinger);
    fail(launch,
         format("expected %d processes at %s within %ld s, missing: %s", launch.world_size,
                place(launch).c_str(), static_cast<long>(patience.count()), missing.c_str()));
  }
  std::vector<Member> members;
  for (int rank = 0; rank < launch.world_size; ++rank) {
    Member& member = members.emplace_back();
    member.rank = rank;
    std::istringstream text(to_text(store.get(keys[static_cast<size_t>(rank)])));
    text >> member.pid >> member.host;
  }
  return members;
}

Meeting meet_at(const StorePtr& store, const Launch& launch, seconds patience) {
  check_job(*store, launch);
  const StorePtr own = of_this_attempt(store, launch);
  return {own, wait_for_all(*own, launch, patience)};
}

[[noreturn]] void fail_without_store(const Launch& launch, const std::string& why) {
  fail(launch,
       format("expected %d processes at %s, got: lost: %s, which served the rendezvous (%s)",
              launch.world_size, place(launch).c_str(),
              launch.store_is_served ? "the launcher" : "process 0", why.c_str()));
}

}  // namespace

std::string name_of(const Member& member) {
  return format("process %d on %s", member.rank, member.host.c_str());
}

Meeting meet(const Launch& launch, seconds patience) {
  // What c10d logs will be an error here, or is no news; of a store that it does not find it tells
  // at length, and even after the line that is said here. TORCH_CPP_LOG_LEVEL brings it back.
  ::setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
  c10::initLogging();
  // As Python does, which c10d was written under: a write to a process that is gone has to fail,
  // not to end this one.
  std::signal(SIGPIPE, SIG_IGN);
  const auto begin = std::chrono::steady_clock::now();
  const auto store = open_store(launch, patience);
  const auto spent = std::chrono::steady_clock::now() - begin;
  const auto left = std::max(seconds(1), patience - std::chrono::duration_cast<seconds>(spent));
  try {
    // No timeout of the store covers that the process that serves it is stopped.
    const auto meeting =
        within(left + kLinger + kAnswerWithin, [=] { return meet_at(store, launch, left); });
    if (meeting) {
      // What NCCL's watchdog says is said nowhere else.
      FLAGS_caffe2_log_level = std::min(FLAGS_caffe2_log_level, kLogErrors);
      return *meeting;
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    const std::string text = failure.what();
    fail_without_store(launch, text.substr(0, text.find('\n')));
  }
  fail_without_store(launch, "it does not answer");
}

std::vector<uint8_t> to_bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string to_text(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace crnet
