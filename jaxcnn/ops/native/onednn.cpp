// Convolutions and their gradients by oneDNN, as custom calls of XLA.
//
// Arrays are dense and row-major: activations (n, *spatial, c), kernels (*kernel, c / groups, o).
// oneDNN numbers dimensions as (n, c, *spatial) and ([groups,] o, c / groups, *kernel) and takes
// strides for where they lie in memory, so that nothing is transposed on the way in.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dnnl.hpp"
#include "xla/ffi/api/ffi.h"

// Of the OpenMP runtime that oneDNN brings along; not there where it has none.
extern "C" __attribute__((weak)) void omp_set_num_threads(int);
extern "C" __attribute__((weak)) int omp_get_thread_limit();

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Buffer = ffi::AnyBuffer;
using Ints = ffi::Span<const int64_t>;
using Output = ffi::Result<ffi::AnyBuffer>;

dnnl::engine& Cpu() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// ------------------------------------------------------------------------- shapes and layouts

int64_t Product(Ints values) {
  return std::accumulate(values.begin(), values.end(), int64_t{1}, std::multiplies<>());
}

void Require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

memory::data_type TypeOf(const Buffer& array) {
  switch (array.element_type()) {
    case ffi::DataType::F32: return memory::data_type::f32;
    case ffi::DataType::BF16: return memory::data_type::bf16;
    default: throw std::invalid_argument("arrays must be float32 or bfloat16");
  }
}

// (n, *spatial, c), said as (n, c, *spatial).
memory::desc Activations(Ints shape, memory::data_type type) {
  size_t rank = shape.size();
  memory::dims dims(rank), strides(rank);
  int64_t stride = 1;
  for (size_t axis = rank; axis-- > 0;) {
    size_t place = axis == 0 ? 0 : axis == rank - 1 ? 1 : axis + 1;
    dims[place] = shape[axis];
    strides[place] = stride;
    stride *= shape[axis];
  }
  return {dims, type, strides};
}

// (*kernel, c / groups, o), said as (o, c, *kernel) or (groups, o / groups, c / groups, *kernel).
memory::desc Kernel(Ints shape, int64_t groups, memory::data_type type) {
  size_t rank = shape.size() - 2;
  int64_t in = shape[rank], out = shape[rank + 1];
  memory::dims dims{out / groups, in}, strides{1, out};
  if (groups > 1) {
    dims.insert(dims.begin(), groups);
    strides.insert(strides.begin(), out / groups);
  }
  size_t first = dims.size();
  dims.resize(first + rank);
  strides.resize(first + rank);
  int64_t stride = in * out;
  for (size_t axis = rank; axis-- > 0;) {
    dims[first + axis] = shape[axis];
    strides[first + axis] = stride;
    stride *= shape[axis];
  }
  return {dims, type, strides};
}

memory::desc AnyLayout(const memory::desc& given) {
  return {given.get_dims(), given.get_data_type(), memory::format_tag::any};
}

// ------------------------------------------------------------------------- one call of oneDNN

// oneDNN's notes lie in memory of ours, so that a primitive may be used by several threads at once.
dnnl::primitive_attr OwnScratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

size_t Rounded(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

// Memory for what is reordered and for oneDNN's own notes; each is used by one call at a time.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    std::lock_guard<std::mutex> lock(Mutex());
    if (!Free().empty()) {
      block_ = Free().back();
      Free().pop_back();
    }
    if (block_.bytes < bytes) {
      std::free(block_.data);
      block_.bytes = Rounded(bytes);
      block_.data = static_cast<char*>(std::aligned_alloc(4096, block_.bytes));
      if (block_.data == nullptr) {
        block_.bytes = 0;
        throw std::bad_alloc();
      }
    }
  }
  ~Workspace() {
    std::lock_guard<std::mutex> lock(Mutex());
    Free().push_back(block_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* data() const { return block_.data; }

 private:
  struct Block {
    char* data = nullptr;
    size_t bytes = 0;
  };
  static std::mutex& Mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static std::vector<Block>& Free() {
    static auto* blocks = new std::vector<Block>;
    return *blocks;
  }
  Block block_;
};

// A primitive with its arguments, in the caller's layout and in the one that it wants.
class Call {
 public:
  template <typename Description>
  explicit Call(const Description& description)
      : primitive_(description), scratchpad_(description.scratchpad_desc()) {
    notes_ = scratchpad_.get_size();
  }

  void Takes(int name, const memory::desc& given, const memory::desc& wanted) {
    Add(name, given, wanted, false);
  }
  void Gives(int name, const memory::desc& given, const memory::desc& wanted) {
    Add(name, given, wanted, true);
  }

  // The arrays stand in the order in which the arguments were added.
  void Run(const std::vector<void*>& arrays) const {
    thread_local dnnl::stream stream(Cpu());
    Workspace workspace(inner_ + notes_);
    char* own = workspace.data() + inner_;
    std::unordered_map<int, memory> bound;
    memory notes(scratchpad_, Cpu(), own);
    auto reorder = [&](const Argument& argument, memory& from, memory& to) {
      memory its(argument.scratchpad, Cpu(), own);
      argument.reorder.execute(
          stream, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, its}});
    };
    bound.emplace(DNNL_ARG_SCRATCHPAD, notes);
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const Argument& argument = arguments_[i];
      memory array(argument.given, Cpu(), arrays[i]);
      if (argument.reorder) {
        memory inner(argument.wanted, Cpu(), workspace.data() + argument.place);
        if (!argument.output) reorder(argument, array, inner);
        array = inner;
      }
      bound.emplace(argument.name, array);
    }
    primitive_.execute(stream, bound);
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const Argument& argument = arguments_[i];
      if (argument.reorder && argument.output) {
        memory array(argument.given, Cpu(), arrays[i]);
        reorder(argument, bound.at(argument.name), array);
      }
    }
    stream.wait();
  }

 private:
  struct Argument {
    int name;
    memory::desc given, wanted;
    bool output;
    size_t place;           // in the workspace
    dnnl::reorder reorder;  // none where both layouts are one
    memory::desc scratchpad;
  };

  void Add(int name, const memory::desc& given, const memory::desc& wanted, bool output) {
    Argument argument{name, given, wanted, output, 0, {}, {}};
    if (given != wanted) {
      const memory::desc& from = output ? wanted : given;
      const memory::desc& to = output ? given : wanted;
      dnnl::reorder::primitive_desc description(Cpu(), from, Cpu(), to, OwnScratchpad());
      argument.reorder = dnnl::reorder(description);
      argument.scratchpad = description.scratchpad_desc();
      notes_ = std::max(notes_, argument.scratchpad.get_size());
      argument.place = inner_;
      inner_ += Rounded(wanted.get_size());
    }
    arguments_.push_back(argument);
  }

  dnnl::primitive primitive_;
  memory::desc scratchpad_;
  std::vector<Argument> arguments_;
  size_t inner_ = 0;  // bytes for arguments in layouts of oneDNN's
  size_t notes_ = 0;  // bytes for the notes of one primitive after the other
};

// Finds the call of this key, or makes it; a call once made stays until the process ends.
const Call& Known(const std::vector<int64_t>& key, const std::function<Call()>& make) {
  static auto* mutex = new std::mutex;
  static auto* calls = new std::map<std::vector<int64_t>, std::unique_ptr<Call>>;
  std::lock_guard<std::mutex> lock(*mutex);
  auto& call = (*calls)[key];
  if (!call) call = std::make_unique<Call>(make());
  return *call;
}

// Work for one thread, in multiplications. To wake another one up takes some ten microseconds.
constexpr int64_t kWorkOfThread = 4'000'000;

// At most as many threads as XLA has, and fewer for little work: on their number, by which the work
// is split, the last bits depend, so that it must depend on nothing but the shapes.
int64_t Threads(const ffi::ThreadPool& pool, int64_t work) {
  int64_t most = pool.num_threads();
  if (omp_get_thread_limit) most = std::min<int64_t>(most, omp_get_thread_limit());
  return std::clamp<int64_t>(work / kWorkOfThread, 1, std::max<int64_t>(most, 1));
}

// XLA may run several calls at once, one of its threads each. Where each of them had threads of its
// own, they would wait for one another in turn, for as long as the system lets the wrong ones run.
std::unique_lock<std::mutex> Alone(int64_t threads) {
  static auto* mutex = new std::mutex;
  if (omp_set_num_threads) omp_set_num_threads(static_cast<int>(threads));
  return threads > 1 ? std::unique_lock<std::mutex>(*mutex) : std::unique_lock<std::mutex>();
}

void Append(std::vector<int64_t>& key, Ints values) {
  key.push_back(static_cast<int64_t>(values.size()));
  key.insert(key.end(), values.begin(), values.end());
}

// No exception may pass through XLA.
template <typename Work>
ffi::Error Guarded(Work work) {
  try {
    work();
    return ffi::Error::Success();
  } catch (const dnnl::error& error) {
    return ffi::Error::InvalidArgument(std::string("oneDNN: ") + error.what());
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(std::string("oneDNN's caller: ") + error.what());
  } catch (...) {
    return ffi::Error::Internal("oneDNN: unknown error");
  }
}

// --------------------------------------------------------------------------------- convolution

enum Direction : int64_t { kForward, kInputGradient, kWeightGradient };

struct Window {
  memory::dims stride, dilation, before, after;
};

// A dense kernel of many taps and outputs: here the gradient of the kernel gains more from oneDNN's
// own layout than it takes to bring the activations there; benchmarks/ops.py measures it.
bool IsWide(const memory::desc& x, const memory::desc& w) {
  memory::dims dims = w.get_dims();
  auto taps = std::accumulate(dims.begin() + 2, dims.end(), int64_t{1}, std::multiplies<>());
  return x.get_ndims() == w.get_ndims() && taps > 1 && dims[0] >= 32 && dims[1] >= 3;
}

Call MakeConvolution(Direction direction, const memory::desc& x, const memory::desc& w,
                     const memory::desc& y, const Window& at) {
  auto attributes = OwnScratchpad();
  auto algorithm = dnnl::algorithm::convolution_direct;
  auto any_w = AnyLayout(w);
  auto purpose = direction == kForward ? dnnl::prop_kind::forward_inference
                                       : dnnl::prop_kind::forward_training;
  dnnl::convolution_forward::primitive_desc forward(Cpu(), purpose, algorithm, x, any_w, y,
                                                    at.stride, at.dilation, at.before, at.after,
                                                    attributes);
  if (direction == kForward) {
    Call call(forward);
    call.Takes(DNNL_ARG_SRC, x, forward.src_desc());
    call.Takes(DNNL_ARG_WEIGHTS, w, forward.weights_desc());
    call.Gives(DNNL_ARG_DST, y, forward.dst_desc());
    return call;
  }
  if (direction == kInputGradient) {
    dnnl::convolution_backward_data::primitive_desc gradient(
        Cpu(), algorithm, x, any_w, y, at.stride, at.dilation, at.before, at.after, forward,
        attributes);
    Call call(gradient);
    call.Takes(DNNL_ARG_WEIGHTS, w, gradient.weights_desc());
    call.Takes(DNNL_ARG_DIFF_DST, y, gradient.diff_dst_desc());
    call.Gives(DNNL_ARG_DIFF_SRC, x, gradient.diff_src_desc());
    return call;
  }
  auto best_x = IsWide(x, w) ? AnyLayout(x) : x, best_y = IsWide(x, w) ? AnyLayout(y) : y;
  dnnl::convolution_backward_weights::primitive_desc gradient(
      Cpu(), algorithm, best_x, any_w, best_y, at.stride, at.dilation, at.before, at.after,
      forward, attributes);
  Call call(gradient);
  call.Takes(DNNL_ARG_SRC, x, gradient.src_desc());
  call.Takes(DNNL_ARG_DIFF_DST, y, gradient.diff_dst_desc());
  call.Gives(DNNL_ARG_DIFF_WEIGHTS, w, gradient.diff_weights_desc());
  return call;
}

memory::dims Listed(Ints values, int64_t less = 0) {
  memory::dims listed;
  for (int64_t value : values) listed.push_back(value - less);
  return listed;
}

// forward: x, w -> y; input gradient: w, dy -> dx; weight gradient: x, dy -> dw.
template <Direction direction>
ffi::Error Convolution(ffi::ThreadPool pool, Buffer first, Buffer second, Output out, Ints stride,
                       Ints dilation, Ints before, Ints after, int64_t groups) {
  return Guarded([&] {
    Ints x = (direction == kInputGradient ? *out : first).dimensions();
    Ints w = (direction == kForward         ? second
              : direction == kInputGradient ? first
                                            : *out).dimensions();
    Ints y = (direction == kForward ? *out : second).dimensions();
    for (Ints array : {x, w, y})
      Require(array.size() >= 3 && array.size() <= 5 && array.size() == x.size(),
              "x, w and y must have one rank, from 3 to 5");
    for (Ints values : {stride, dilation, before, after})
      Require(values.size() == x.size() - 2, "there must be one number for each dimension");
    Require(groups > 0 && w.back() % groups == 0 && Product(x) && Product(w) && Product(y),
            "groups must divide the outputs, and no array be empty");
    auto type = TypeOf(first);
    Require(TypeOf(second) == type && TypeOf(*out) == type, "arrays must have one type");
    int64_t threads = Threads(pool, Product(y) * (Product(w) / w.back()));
    std::vector<int64_t> key{direction, threads, static_cast<int64_t>(type), groups};
    for (Ints values : {x, w, y, stride, dilation, before, after}) Append(key, values);
    auto lock = Alone(threads);
    const Call& call = Known(key, [&] {
      // oneDNN counts how many positions a dilated kernel skips between two taps.
      Window window{Listed(stride), Listed(dilation, 1), Listed(before), Listed(after)};
      return MakeConvolution(direction, Activations(x, type), Kernel(w, groups, type),
                             Activations(y, type), window);
    });
    call.Run({first.untyped_data(), second.untyped_data(), out->untyped_data()});
  });
}

auto ConvolutionBinding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Buffer>()
      .Arg<Buffer>()
      .Ret<Buffer>()
      .Attr<Ints>("stride")
      .Attr<Ints>("dilation")
      .Attr<Ints>("before")
      .Attr<Ints>("after")
      .Attr<int64_t>("groups");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_forward, Convolution<kForward>, ConvolutionBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_input_gradient, Convolution<kInputGradient>,
                              ConvolutionBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_weight_gradient, Convolution<kWeightGradient>,
                              ConvolutionBinding());

// The version of the library that was found, as major * 10000 + minor * 100 + patch.
extern "C" int onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return version->major * 10000 + version->minor * 100 + version->patch;
}
