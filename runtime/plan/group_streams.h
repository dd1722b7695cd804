// The part of building a schedule that concerns parameter groups: how weights reach the device, how gradients leave it,
// and how groups are updated. Weights, states and gradients have homes; what is needed elsewhere passes through rings.
// Groups that live on the device have all three there, and are updated on its compute lane.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "runtime/plan/buffer_names.h"
#include "runtime/plan/job_shape.h"
#include "runtime/plan/op_emitter.h"
#include "runtime/plan/phase.h"
#include "runtime/plan/plan.h"

namespace sluice::plan {

class GroupStreams : protected OpEmitter {
 protected:
  // All must outlive this. `source_low_bits`: per group, whether the user's files hold more than its weights.
  GroupStreams(const JobShape& shape, const Plan& plan, const Phase& phase, std::span<const uint8_t> source_low_bits,
               Layout& layout);
  ~GroupStreams() = default;

  static size_t index(int i) { return static_cast<size_t>(i); }
  int blocks() const { return static_cast<int>(shape_.blocks.size()); }
  int groups() const { return static_cast<int>(shape_.groups.size()); }
  const BlockShape& block(int b) const { return shape_.blocks[index(b)]; }
  const GroupShape& group(int g) const { return shape_.groups[index(g)]; }
  bool separate() const { return plan_.memory == DeviceMemory::separate; }
  Tier device_tier() const { return separate() ? Tier::device : Tier::host; }
  bool training() const { return phase_.kind == PhaseKind::train; }

  // Weights and states whose home is memory, from the user's files or from a checkpoint.
  void load();
  // A buffer that the device reads the newest weights from. Updates them first where their update is pending.
  BufferId device_weights(int g);

  // Where a block's backward adds up its gradients; then, per op, that it does; then all that follows from it: norms,
  // the way home, updates that are not to wait.
  void begin_gradients(int b);
  void add_gradients(int b, Op& op);
  void finish_gradients(int b);
  // Updates behind backward on the host come one block late: all that the next block's backward takes is fetched before
  // states that wait for a gradient, and the update does not queue behind that block's norm.
  void update_finished();

  void update_pending();           // a flush
  void update_behind_all_again();  // a redo

  const JobShape& shape_;
  const Plan& plan_;
  const Phase phase_;

 private:
  using BytesCount = std::map<int64_t, int>;  // by bytes of a group's weights
  struct Chunk {
    int number;
    int64_t begin, end;
    int64_t states_begin, states_bytes;  // in the home of states
    int64_t elements() const { return end - begin; }
  };
  const GroupPlan& group_plan(int g) const { return plan_.groups[index(g)]; }
  std::vector<Chunk> cut(const GroupShape& group) const;
  const std::vector<Chunk>& chunks(int g) const { return chunks_[index(g)]; }
  int64_t gradient_bytes(int g) const { return group(g).elements * shape_.gradient_bytes_per_element; }

  // Groups that are updated behind backward may have two sets.
  bool is_early(int g) const { return group(g).trainable && group_plan(g).update == UpdateTime::behind_backward; }
  bool is_pending(int g) const { return group(g).trainable && (is_early(g) ? phase_.early_pending : phase_.pending); }
  bool states_stored(int g) const { return is_early(g) ? phase_.early_states_stored : phase_.states_stored; }
  bool weights_stored(int g) const { return is_early(g) ? phase_.early_weights_stored : phase_.weights_stored; }
  int newest(int g) const { return newest_set(plan_, g, phase_.odd); }
  // Where an update behind backward writes.
  int next_set(int g) const { return plan_.undoable ? 1 - newest(g) : newest(g); }

  bool weights_on_disk(int g) const { return group_plan(g).weights == Tier::disk; }
  bool weights_on_device(int g) const { return separate() && group_plan(g).weights == Tier::device; }
  bool on_device(int g) const { return group(g).trainable && lives_on_device(group_plan(g)); }
  // Updates run on the host, and leave what lives on the device alone there as well.
  bool has_host_weights(int g) const {
    return !weights_on_disk(g) && (!weights_on_device(g) || (group(g).trainable && !on_device(g)));
  }
  // Its gradient goes straight into the update: no home, as nothing will ask for it again.
  bool gradient_is_passing(int g) const { return is_early(g) && !plan_.undoable; }
  bool gradient_at_home(int g) const { return group_plan(g).gradients != Tier::disk && !gradient_is_passing(g); }

  // How many buffers a ring needs: of as many groups as any blocks in a row have. A deeper one would hold for the
  // embedding what only the head asks for, all layers later.
  int most_together(const BytesCount& of_size, int g) const { return of_size.at(group(g).weight_bytes().count); }
  BytesCount groups_in_a_row(int blocks_in_a_row) const;
  int gradient_ring_blocks() const;

  BufferId home_weights(int g, int set);
  BufferId home_device_weights(int g, int set);
  BufferId weights_extent(int g, int set);
  BufferId home_states(int g, int set);
  BufferId states_extent(int g, const Chunk& chunk, int set);
  BufferId home_gradients(int g);
  BufferId gradients_extent(int g, const Chunk& chunk);
  BufferId load_ring(int g);
  Operand home_states_chunk(int g, const Chunk& chunk, int set, Role role, Access access);
  Operand ring_states_chunk(const Chunk& chunk, Role role, Access access);
  Operand gradients_chunk(int g, const Chunk& chunk);

  BufferId stage_weights(int g, const Chunk& chunk);
  BufferId stage_states(int g, const Chunk& chunk);
  void unpack(int g, const Chunk& chunk, BufferId staging, BufferId weights);
  void init_states(int g, const Chunk& chunk, BufferId source, Operand states);
  void fill_from_source(int g, BufferId weights);
  BufferId host_weights(int g);
  void load_weights(int g);
  void load_states(int g);

  // On the lane of whoever keeps the operands: the optimizer's, or the device's own.
  void emit_beside(Op&& op, int g);
  void refresh_weights(int g);
  void update_behind(int g);
  void duplicate(int g, Operand from, Operand to);
  void update_group(int g, BufferId weights, int into, bool early);
  void fetch_states(int g, const Chunk& chunk, const Operand& states);
  void update_chunk(int g, const Chunk& chunk, BufferId weights, Operand states, bool early);
  BufferId gradients_on_host(int g, int b);

  const std::span<const uint8_t> low_bits_;
  std::vector<std::vector<Chunk>> chunks_;                     // per group
  std::vector<int> block_of_first_use_;                        // per group: the last block whose backward adds to it
  std::map<int, int> uses_;                                    // blocks that use the group
  BytesCount weights_rings_, gradient_rings_, leaving_rings_;  // their depths
  int64_t staging_bytes_ = 0, states_staging_bytes_ = 0, states_chunk_bytes_ = 0;  // the most of all groups
  std::set<int> updated_, written_, begun_;
  std::map<int, BufferId> accumulating_;
  std::map<int, BufferId> finished_;  // gradients that wait for their update behind backward
};

}  // namespace sluice::plan
