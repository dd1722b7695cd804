#include "runtime/plan/search.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace sluice::plan {
namespace {

using Caps = std::array<Bytes, kTierCount>;

// Moving down a tier relieves more than it burdens.
constexpr std::array<double, kTierCount> kWeight = {4, 2, 1};
// Gains below this share of a step are not worth another round.
constexpr double kWorthwhile = 1e-5;
// A place this share dearer than the best may still lead to a better one.
constexpr double kPromising = 0.1;

double violation(const Score& score, const Caps& caps) {
  double sum = 0;
  for (size_t tier = 0; tier < kTierCount; ++tier)
    sum += kWeight[tier] * static_cast<double>(std::max<int64_t>(0, (score.memory[tier] - caps[tier]).count));
  return sum;
}
bool fits(const Score& score, const Caps& caps) { return violation(score, caps) == 0; }

struct Move {
  int family = 0;
  int from = 0, to = 0;
  int count = 1;
};

class Searcher {
 public:
  Searcher(const Choices& choices, Scorer& score, const SearchLimits& limits)
      : choices_(choices), score_(score), limits_(limits) {}

  std::optional<Assignment> run(const std::optional<Assignment>& from) {
    std::optional<Assignment> best;
    for (const Assignment& start : from ? std::vector<Assignment>{*from} : starts()) {
      std::optional<Assignment> found = evict(start, /*timed=*/true);
      if (!found) continue;
      begin_stage();
      improve(*found);
      if (!best || score_(*found).price < score_(*best).price) best = std::move(found);
    }
    begin_stage();
    if (best) settle(*best);
    if (best) polish(*best);
    return best;
  }
  std::optional<Assignment> any() { return evict(choices_.smallest(), /*timed=*/false); }

 private:
  const Choice& choice(int i) const { return choices_.all()[static_cast<size_t>(i)]; }
  const Family& family(int f) const { return choices_.families()[static_cast<size_t>(f)]; }
  // Every stage has its own share of what the search may spend: three starts, and what follows the best.
  void begin_stage() { stage_end_ = score_.spent() + limits_.ops / 4; }
  bool exhausted() const { return score_.spent() >= stage_end_; }

  // From above and from below, and from below with every update behind its backward: one such update alone may gain
  // nothing where all together do.
  std::vector<Assignment> starts() {
    using enum ChoiceKind;
    const Assignment fastest = choices_.fastest(), smallest = choices_.smallest();
    const bool all_fits = fits(score_(fastest), limits_.caps);
    return {all_fits ? fastest : with(fastest, smallest, {update, prefetch, chunk_ring, gradient_ring}), smallest,
            with(smallest, fastest, {update})};
  }
  // `a`, but choices of these kinds as in `other`.
  Assignment with(Assignment a, const Assignment& other, std::initializer_list<ChoiceKind> kinds) const {
    for (size_t i = 0; i < a.size(); ++i)
      if (std::find(kinds.begin(), kinds.end(), choices_.all()[i].kind) != kinds.end()) a[i] = other[i];
    return a;
  }

  // How many of the family have an option.
  int count(const Assignment& a, int f, int option) const {
    return static_cast<int>(std::count_if(family(f).members.begin(), family(f).members.end(),
                                          [&](int i) { return a[static_cast<size_t>(i)] == option; }));
  }

  // Up takes those that come first in rank, down those that come last.
  Assignment moved(const Assignment& a, const Move& move) const {
    Assignment b = a;
    std::vector<int> members = family(move.family).members;
    if (move.to > move.from) std::reverse(members.begin(), members.end());
    int left = move.count;
    for (const int i : members) {
      if (left == 0) break;
      if (b[static_cast<size_t>(i)] != move.from) continue;
      b[static_cast<size_t>(i)] = move.to;
      --left;
    }
    return b;
  }

  std::vector<Move> moves(const Assignment& a) const {
    std::vector<Move> all;
    for (int f = 0; f < static_cast<int>(choices_.families().size()); ++f) {
      const auto options = static_cast<int>(choice(family(f).members.front()).options.size());
      for (int from = 0; from < options; ++from) {
        const int here = count(a, f, from);
        for (int to = 0; to < options && here > 0; ++to)
          if (to != from) all.push_back({f, from, to, here});
      }
    }
    return all;
  }

  // So many that the tier which is over its cap is relieved.
  int needed(const Score& now, const Move& move) const {
    const Choice& one = choice(family(move.family).members.front());
    int most = 1;
    for (size_t tier = 0; tier < kTierCount; ++tier) {
      const int64_t over = (now.memory[tier] - limits_.caps[tier]).count;
      const int64_t relief = bytes_at(one, move.from, tier) - bytes_at(one, move.to, tier);
      if (over > 0 && relief > 0)
        most = std::max(most, static_cast<int>(std::min<int64_t>((over + relief - 1) / relief, 1 << 20)));
    }
    return most;
  }
  // No more than a quarter of the family at once, as what is cheap for the first few may be dear for the rest; all of
  // it when that will not do by far.
  int enough(const Score& now, const Move& move) const {
    const int need = needed(now, move);
    if (need >= 2 * move.count) return move.count;
    return std::min({need, move.count, quarter(move.family)});
  }
  static int64_t bytes_at(const Choice& one, int option, size_t tier) {
    return one.bytes[static_cast<size_t>(option)][tier];
  }
  int quarter(int f) const { return static_cast<int>(family(f).members.size() + 3) / 4; }

  // Rounds: every move is priced by the time it costs per byte, then the cheapest are taken, each checked anew.
  std::optional<Assignment> evict(Assignment a, bool timed) {
    while (!fits(score_(a, timed), limits_.caps)) {
      const std::vector<Priced> priced = prices(a, timed);
      if (priced.empty()) return std::nullopt;
      std::vector<int> touched;
      for (const Priced& each : priced) {
        // What is dear may be cheap no longer needed, or cheaper, after this round.
        if (each.price > 2 * priced.front().price || fits(score_(a, timed), limits_.caps)) break;
        if (std::find(touched.begin(), touched.end(), each.move.family) != touched.end()) continue;
        Move move = each.move;
        move.count = std::min(move.count, std::max(enough(score_(a, timed), move), each.move.count));
        Assignment b = moved(a, move);
        if (violation(score_(b, timed), limits_.caps) >= violation(score_(a, timed), limits_.caps)) continue;
        touched.push_back(move.family);
        a = std::move(b);
      }
    }
    return a;
  }

  struct Priced {
    Move move;
    double price, relief;
  };
  std::vector<Priced> prices(const Assignment& a, bool timed) {
    std::vector<Priced> priced;
    const Score now = score_(a, timed);
    prepare_trials(
        a, [&](const Move& move) { return enough(now, move); }, timed);
    for (Move move : moves(a)) {
      const int whole = move.count;
      move.count = enough(now, move);
      const auto relief_of = [&] {
        return violation(now, limits_.caps) - violation(score_(moved(a, move), timed), limits_.caps);
      };
      double relief = relief_of();
      // The first of a family to leave may need a ring of buffers that takes more than it gives back.
      if (relief <= 0 && move.count < whole) {
        move.count = whole;
        relief = relief_of();
      }
      const Score& then = score_(moved(a, move), timed);
      if (relief > 0) priced.push_back({move, std::max(0.0, then.price.count - now.price.count) / relief, relief});
    }
    std::stable_sort(priced.begin(), priced.end(), [](const Priced& x, const Priced& y) {
      return x.price != y.price ? x.price < y.price : x.relief > y.relief;
    });
    return priced;
  }

  // Scores what the next loop will ask for, on all cores.
  template <class Count>
  void prepare_trials(const Assignment& a, const Count& count_of, bool timed) {
    std::vector<Assignment> trials;
    for (Move move : moves(a)) {
      move.count = count_of(move);
      trials.push_back(moved(a, move));
    }
    score_.prepare(trials, timed);
  }

  struct Trial {
    Move move;
    double saved = 0;  // microseconds
    double bytes = 0;  // more, weighted by tier
    bool fits = false;
    double worth() const { return saved / std::max(bytes, 1.0); }
  };

  std::vector<Trial> trials(const Assignment& a) {
    std::vector<Trial> all;
    const Score now = score_(a);
    prepare_trials(
        a, [&](const Move& move) { return std::min(move.count, quarter(move.family)); }, true);
    prepare_trials(
        a, [&](const Move&) { return 1; }, true);
    for (Move move : moves(a)) {
      const int most = move.count;
      for (int each : {std::min(most, quarter(move.family)), 1}) {
        if (exhausted()) return all;
        move.count = each;
        const Score& then = score_(moved(a, move));
        Trial trial{move, now.price.count - then.price.count, 0, fits(then, limits_.caps)};
        for (size_t tier = 0; tier < kTierCount; ++tier)
          trial.bytes += kWeight[tier] * static_cast<double>((then.memory[tier] - now.memory[tier]).count);
        all.push_back(trial);
        if (each == 1) break;
      }
    }
    return all;
  }

  // Rounds: every move is tried alone, then what helps is taken in order of time saved per byte.
  void improve(Assignment& a) {
    while (!exhausted()) {
      std::vector<Trial> all = trials(a);
      const double worth = kWorthwhile * score_(a).price.count;
      std::stable_sort(all.begin(), all.end(), [](const Trial& x, const Trial& y) { return x.worth() > y.worth(); });
      std::vector<int> touched;
      for (const Trial& trial : all) {
        if (trial.saved <= worth || exhausted()) continue;
        if (std::find(touched.begin(), touched.end(), trial.move.family) != touched.end()) continue;
        Assignment b = moved(a, trial.move);
        if (!fits(score_(b), limits_.caps) || score_(b).price.count >= score_(a).price.count - worth) continue;
        touched.push_back(trial.move.family);
        a = std::move(b);
      }
      if (touched.empty() && !exchange(a, all, worth)) return;
    }
  }

  // What is wanted most per byte, paid for by what is missed least per byte, each repeated while that is a gain.
  bool exchange(Assignment& a, const std::vector<Trial>& all, double worth) {
    constexpr int kFailures = 12;
    std::vector<Trial> wanted, given;
    for (const Trial& trial : all) {
      if (trial.saved > 0 && !trial.fits) wanted.push_back(trial);
      if (trial.bytes < 0) given.push_back(trial);
    }
    std::stable_sort(wanted.begin(), wanted.end(),
                     [](const Trial& x, const Trial& y) { return x.worth() > y.worth(); });
    std::stable_sort(given.begin(), given.end(),
                     [](const Trial& x, const Trial& y) { return x.saved / -x.bytes > y.saved / -y.bytes; });
    bool improved = false;
    int failures = 0;
    for (const Trial& trial : wanted) {
      bool helped = false;
      while (exchanged(a, trial.move, given, worth)) helped = improved = true;
      if (!helped && ++failures == kFailures) break;
    }
    return improved;
  }
  bool exchanged(Assignment& a, Move wanted, const std::vector<Trial>& given, double worth) {
    wanted.count = std::min(wanted.count, count(a, wanted.family, wanted.from));
    if (wanted.count == 0) return false;
    Assignment b = moved(a, wanted);
    for (const Trial& trial : given) {
      if (exhausted()) return false;
      if (fits(score_(b, false), limits_.caps)) break;
      Move move = trial.move;
      move.count = count(b, move.family, move.from);
      if (move.family == wanted.family || move.count == 0) continue;
      move.count = std::min(move.count, needed(score_(b, false), move));
      b = moved(b, move);
    }
    if (!fits(score_(b, false), limits_.caps) || score_(b).price.count >= score_(a).price.count - worth) return false;
    a = std::move(b);
    return true;
  }

  // Large jobs end with what no round thought worthwhile, or had no time for: places slower than there is room for, as
  // many of a family at once as fit. All of them together can be worth it, and a drive's wear is.
  void settle(Assignment& a) {
    for (const Move& slower : moves(a)) {
      if (slower.to >= slower.from) continue;
      for (Move move = slower; move.count > 0 && !exhausted(); move.count /= 2) {
        move.count = std::min(move.count, count(a, move.family, move.from));
        if (move.count > 0 && take_if_better(a, moved(a, move))) break;
      }
    }
  }

  // Small jobs have room for more than greed: every single change and every pair of changes, of any member, and the
  // same from places a few random changes away, where what only pays three at a time is found.
  void polish(Assignment& a) {
    constexpr size_t kFew = 120;
    constexpr int kKicks = 24;
    const Changes changes = all_changes();
    if (changes.size() > kFew) return;
    descend_by_pairs(a, changes);
    std::mt19937 random(1);
    for (int kick = 0; kick < kKicks && !exhausted(); ++kick) {
      std::optional<Assignment> b = evict(kicked(a, changes, random), /*timed=*/true);
      if (!b) continue;
      descend(*b, changes);
      if (score_(*b).price.count >= score_(a).price.count * (1 + kPromising)) continue;
      descend_by_pairs(*b, changes);
      if (score_(*b).price < score_(a).price) a = std::move(*b);
    }
  }

  using Changes = std::vector<std::pair<size_t, int>>;  // of which choice, to which option
  Changes all_changes() const {
    Changes changes;
    for (size_t i = 0; i < choices_.all().size(); ++i)
      for (int option = 0; option < static_cast<int>(choices_.all()[i].options.size()); ++option)
        changes.emplace_back(i, option);
    return changes;
  }
  static Assignment kicked(Assignment a, const Changes& changes, std::mt19937& random) {
    constexpr int kChanged = 4;
    for (int i = 0; i < kChanged; ++i) {
      const auto& [choice, option] = changes[random() % changes.size()];
      a[choice] = option;
    }
    return a;
  }
  bool take_if_better(Assignment& a, const Assignment& b) {
    if (!fits(score_(b), limits_.caps) || score_(b).price >= score_(a).price) return false;
    a = b;
    return true;
  }
  void descend(Assignment& a, const Changes& changes) {
    for (bool improved = true; improved && !exhausted();) {
      improved = false;
      for (const auto& [choice, option] : changes) {
        if (exhausted()) return;
        Assignment b = a;
        b[choice] = option;
        improved |= take_if_better(a, b);
      }
    }
  }
  void descend_by_pairs(Assignment& a, const Changes& changes) {
    for (bool improved = true; improved && !exhausted();) {
      improved = false;
      for (size_t first = 0; first < changes.size() && !exhausted(); ++first) {
        Assignment b = a;
        b[changes[first].first] = changes[first].second;
        improved |= take_if_better(a, b);
        for (size_t second = first + 1; second < changes.size() && !exhausted(); ++second) {
          Assignment c = b;
          c[changes[second].first] = changes[second].second;
          improved |= take_if_better(a, c);
        }
      }
    }
  }

  const Choices& choices_;
  Scorer& score_;
  const SearchLimits& limits_;
  int64_t stage_end_ = 0;
};

}  // namespace

std::optional<Assignment> search(const Choices& choices, Scorer& score, const SearchLimits& limits,
                                 const std::optional<Assignment>& from) {
  return Searcher(choices, score, limits).run(from);
}

std::optional<Assignment> search_any(const Choices& choices, Scorer& score, const SearchLimits& limits) {
  return Searcher(choices, score, limits).any();
}

std::optional<Gain> next_gain(const Choices& choices, Scorer& score, const Assignment& assignment, int family) {
  const auto& members = choices.families()[static_cast<size_t>(family)].members;
  std::optional<Gain> best;
  for (const int i : members) {
    const int now = assignment[static_cast<size_t>(i)];
    for (int option = 0; option < now; ++option) {
      Assignment faster = assignment;
      faster[static_cast<size_t>(i)] = option;
      Gain gain{i, option, {score(assignment).time.count - score(faster).time.count}, {}};
      for (size_t tier = 0; tier < kTierCount; ++tier)
        gain.bytes[tier] = (score(faster).memory[tier] - score(assignment).memory[tier]).count;
      if (!best || gain.saved > best->saved) best = gain;
    }
    if (best) break;  // the first in rank that has a faster option
  }
  return best;
}

}  // namespace sluice::plan
