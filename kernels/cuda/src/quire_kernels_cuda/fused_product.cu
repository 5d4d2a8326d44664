// A product of a decode step with what stands after it in a layer, for a few hundred tokens at most (sm_90a).
//
// out[t, n] = sum over k of x[t, k] * weight[n, k], in tiles of 64 tokens by OUT. One warp of a block copies tiles into
// a ring in shared memory (TMA), four multiply them (wgmma). SPLITS blocks share a tile, each with its part of k: they
// send each other their sums, so that each has the whole of some rows, and ends them. PEERS blocks of different tokens
// share a tile of the weight: each copies a part of it to all. The weight's first tiles are on their way before the
// kernel ahead has ended. A cluster is SPLITS by 1 by PEERS blocks.
//
// Macros: EPILOGUE (ADD, GATE or HEADS), OUT, SPLITS, PEERS, STAGES. `multiply` is put before this text.

using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;
using bf16 = unsigned short;

#define CLUSTER (SPLITS * PEERS)
#define ADD 0    // residual + product, that sum times the next norm's gain, and its squares' sums
#define GATE 1   // row scale, then silu of the gate's half times the other
#define HEADS 2  // row scale, bias, norm of a head, rotation, to the query or the cache

constexpr int TOKENS = 64;
constexpr int INNER = 64;  // 128 bytes of k, one swizzled row
constexpr int MULTIPLIERS = 128;  // threads
constexpr int ENDERS = 256;       // threads that end rows: those, and as many that wait until then
constexpr int HALF = OUT / 2;
constexpr int X_BYTES = TOKENS * INNER * 2;
constexpr int STAGE_BYTES = (TOKENS + OUT) * INNER * 2;
constexpr int CHUNKS = EPILOGUE == GATE && PEERS == 1 ? 2 : 1;  // a copy is of one half, and of whole groups of 8 rows
constexpr int CHUNK = OUT / PEERS / CHUNKS;
constexpr int ROWS = TOKENS / SPLITS;  // that a block ends
constexpr int LANES = HALF > 32 ? 16 : 8;  // that end a row, each four columns of either half
constexpr int GROUPS = ENDERS / LANES;
constexpr int ROUNDS = ROWS > GROUPS ? ROWS / GROUPS : 1;
constexpr int STRIDE = OUT + 8;  // of sums in shared memory: spreads rows over the banks
constexpr int SHARE_BYTES = ROWS * STRIDE * 4;
constexpr int SENT_AT = STAGES * STAGE_BYTES;  // behind the ring, which may still be read when others send

struct alignas(64) TensorMap {
    char bytes[128];
};

struct Arguments {
    const float* squares;  // [T, square_parts] of x's rows before their norm
    const bf16* residual;
    const bf16* gain;
    bf16* total;
    bf16* gained;
    float* squares_out;  // [T, tiles]
    bf16* out;           // [T, out_stride]
    const bf16* bias;
    const bf16* q_norm;
    const bf16* k_norm;
    const float* cos_sin;
    const i64* positions;
    const i64* slots;
    bf16* key_cache;
    bf16* value_cache;
    i64 key_block, key_head, key_slot, value_block, value_head, value_slot;
    int num_tokens, in_features, out_stride, square_parts;
    int num_heads, num_kv_heads, block_size, cos_sin_stride;
    float eps;
};

// -- the machine's instructions ---------------------------------------------------------------------------------------

__device__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

__device__ void wait_for_inputs() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ void start_next() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ void init_barrier(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ void wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}"
        ::"r"(barrier), "r"(parity) : "memory");
}

// To the same place, and the same barrier, in each block of `blocks`, a bit for each.
__device__ void copy_tile(u32 blocks, u32 target, const TensorMap* map, int column, int row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%3, %4}], [%2], %5;"
        ::"r"(target), "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(static_cast<unsigned short>(blocks))
        : "memory");
}

__device__ void copy_tile(u32 target, const TensorMap* map, int column, int row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        ::"r"(target), "l"(map), "r"(barrier), "r"(column), "r"(row) : "memory");
}

__device__ u32 address_in_block(u32 address, u32 block) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
    return there;
}

__device__ void arrive_in_block(u32 barrier, u32 block) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in_block(barrier, block)) : "memory");
}

// Copy to another block, and count the bytes on its barrier.
__device__ void send(u32 target, u32 source, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(target), "r"(source), "r"(bytes), "r"(barrier) : "memory");
}

__device__ void meet(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// The blocks of a cluster have made their barriers.
__device__ void meet_cluster() {
#if CLUSTER > 1
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// Ordered with barriers, and with nothing else: the loads of many rows are to be under way together.
__device__ float4 load_quad(u32 address) {
    float4 quad;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(quad.x), "=f"(quad.y), "=f"(quad.z), "=f"(quad.w) : "r"(address));
    return quad;
}

__device__ void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// How wgmma finds a tile of rows of 128 bytes, swizzled in groups of 8 rows.
__device__ u64 tile_descriptor(u32 address) {
    return static_cast<u64>((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

// -- numbers: four columns of each half of a tile's row ---------------------------------------------------------------

struct Quads {
    float4 first, second;
};

__device__ float4 operator*(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ float4 operator+(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ float4 operator-(float4 a, float4 b) {
    return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}

__device__ float4 operator*(float4 a, float scale) {
    return make_float4(a.x * scale, a.y * scale, a.z * scale, a.w * scale);
}

__device__ Quads operator*(const Quads& a, const Quads& b) {
    return Quads{a.first * b.first, a.second * b.second};
}

__device__ Quads operator+(const Quads& a, const Quads& b) {
    return Quads{a.first + b.first, a.second + b.second};
}

__device__ Quads operator*(const Quads& a, float scale) {
    return Quads{a.first * scale, a.second * scale};
}

__device__ float squared(float4 a) {
    return a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
}

__device__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ uint2 pack(float4 quad) {
    return make_uint2(pack(quad.x, quad.y), pack(quad.z, quad.w));
}

__device__ float4 unpack(uint2 packed) {
    return make_float4(__uint_as_float(packed.x << 16), __uint_as_float(packed.x & 0xFFFF0000u),
                       __uint_as_float(packed.y << 16), __uint_as_float(packed.y & 0xFFFF0000u));
}

__device__ const uint2& packed_at(const bf16* from) {
    return *reinterpret_cast<const uint2*>(from);
}

__device__ Quads read_quads(const bf16* from) {
    return Quads{unpack(packed_at(from)), unpack(packed_at(from + HALF))};
}

__device__ void write(bf16* to, float4 quad) {
    *reinterpret_cast<uint2*>(to) = pack(quad);
}

__device__ void write(bf16* to, const Quads& quads) {
    write(to, quads.first);
    write(to + HALF, quads.second);
}

// Over the lanes of a row.
__device__ float sum_of_row(float value) {
#pragma unroll
    for (int step = LANES / 2; step; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

__device__ float silu(float gate) {
    return __fdividef(gate, 1.0f + __expf(-gate));
}

// -- one warp copies, the others multiply -----------------------------------------------------------------------------

struct Ring {
    u32 stages, full, empty;  // addresses; barriers are 8 bytes each
};

struct Share {
    int begin, count;  // of the product's steps of INNER
};

__device__ u32 block_of(int split, int peer) {
    return split + SPLITS * peer;
}

__device__ void copy_weight(const Ring& ring, int stage, const TensorMap* map, int column, int out_stride) {
    u32 target = ring.stages + stage * STAGE_BYTES + X_BYTES, barrier = ring.full + 8 * stage;
    int tile = blockIdx.y, peer = blockIdx.z % PEERS;
    u32 peers = 0;
    for (int other = 0; other < PEERS; ++other) peers |= 1u << block_of(blockIdx.x, other);
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        int in_tile = (peer * CHUNKS + chunk) * CHUNK, row = tile * OUT + in_tile;
#if EPILOGUE == GATE
        row = in_tile < HALF ? tile * HALF + in_tile : out_stride + tile * HALF + in_tile - HALF;
#endif
        if (PEERS > 1) {
            copy_tile(peers, target + in_tile * INNER * 2, map, column, row, barrier);
        } else {
            copy_tile(target + in_tile * INNER * 2, map, column, row, barrier);
        }
    }
}

__device__ void copy_first_weights(const Ring& ring, const Share& share, const TensorMap* weight, int out_stride) {
    for (int step = 0; step < min(STAGES, share.count); ++step) {
        expect_bytes(ring.full + 8 * step, STAGE_BYTES);
        copy_weight(ring, step, weight, (share.begin + step) * INNER, out_stride);
    }
}

__device__ void copy_rest(const Ring& ring, const Share& share, const TensorMap* x, const TensorMap* weight,
                          int out_stride) {
    for (int step = 0; step < share.count; ++step) {
        int stage = step % STAGES, column = (share.begin + step) * INNER;
        if (step >= STAGES) {
            wait(ring.empty + 8 * stage, (step / STAGES - 1) & 1);
            expect_bytes(ring.full + 8 * stage, STAGE_BYTES);
            copy_weight(ring, stage, weight, column, out_stride);
        }
        copy_tile(ring.stages + stage * STAGE_BYTES, x, column, blockIdx.z * TOKENS, ring.full + 8 * stage);
    }
}

// Let all peers copy into a stage, as far as it is used again: none may wait for a block that has ended.
__device__ void release(const Ring& ring, const Share& share, int step) {
    if (threadIdx.x % 32 || step + STAGES >= share.count) return;
    u32 empty = ring.empty + 8 * (step % STAGES);
#if PEERS > 1
    for (int peer = 0; peer < PEERS; ++peer) arrive_in_block(empty, block_of(blockIdx.x, peer));
#else
    arrive(empty);
#endif
}

__device__ void multiply_all(const Ring& ring, const Share& share, float (&sums)[HALF]) {
    for (int step = 0; step < share.count; ++step) {
        int stage = step % STAGES;
        u32 x = ring.stages + stage * STAGE_BYTES;
        u64 left = tile_descriptor(x), right = tile_descriptor(x + X_BYTES);
        wait(ring.full + 8 * stage, (step / STAGES) & 1);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int at = 0; at < 4; ++at) multiply(sums, left + 2 * at, right + 2 * at, step + at > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // the step before has been read
        if (step > 0) release(ring, share, step - 1);
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

__device__ void put_down(u32 sums_at, const float (&sums)[HALF]) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    u32 to = sums_at + (row * STRIDE + lane % 4 * 2) * 4;
#pragma unroll
    for (int at = 0; at < HALF; at += 2) {
        u32 there = to + at / 4 * 32 + at % 4 / 2 * (8 * STRIDE * 4);
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(there), "f"(sums[at]), "f"(sums[at + 1]) : "memory");
    }
#if SPLITS > 1
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Give the others the rows that they end.
__device__ void send_shares(const Ring& ring, u32 barrier) {
    int other = threadIdx.x;
    if (other >= SPLITS || other == blockIdx.x) return;
    u32 block = block_of(other, blockIdx.z % PEERS);
    u32 target = address_in_block(ring.stages + SENT_AT + blockIdx.x * SHARE_BYTES, block);
    send(target, ring.stages + other * SHARE_BYTES, SHARE_BYTES, address_in_block(barrier, block));
}

// -- the end of a row -------------------------------------------------------------------------------------------------

// A lane's columns, and what it knows of them: the weight of the norm that follows, or of the head's.
struct Columns {
    int tile, first;  // first of the tile's first half
    bool here;        // halves narrower than a row's lanes leave some without
    Quads weight, bias;
};

// A row, and what a lane has read of it before the product is there.
struct Row {
    int in_share, token;
    bool here;
    uint2 first, second;  // of the residual stream
    float squares;
    int position, slot;
    Quads turn;  // cosines, sines
};

__device__ Row row_of(const Arguments& a, int split, int first_token, int round, const Columns& columns) {
    int in_share = round * GROUPS + threadIdx.x / LANES;
    Row row{in_share, first_token + split * ROWS + in_share};
    row.here = columns.here && in_share < ROWS && row.token < a.num_tokens;
    return row;
}

__device__ i64 offset(int row, int stride) {
    return static_cast<i64>(row) * stride;
}

#if EPILOGUE == ADD

__device__ void read_late(const Arguments& a, Columns& columns) {
    if (columns.here) columns.weight = read_quads(a.gain + columns.tile * OUT + columns.first);
}

__device__ void read_ahead(const Arguments& a, const Columns& columns, Row& row) {
    if (!row.here) return;
    const bf16* from = a.residual + offset(row.token, a.out_stride) + columns.tile * OUT + columns.first;
    row.first = packed_at(from);
    row.second = packed_at(from + HALF);
}

__device__ void read_late(const Arguments& a, const Columns& columns, Row& row) {}

__device__ void end_row(const Arguments& a, const Columns& columns, const Row& row, const Quads& product) {
    Quads total = product + Quads{unpack(row.first), unpack(row.second)};
    // What is stored is rounded, and so is what is squared.
    total = Quads{unpack(pack(total.first)), unpack(pack(total.second))};
    float squares = sum_of_row(row.here ? squared(total.first) + squared(total.second) : 0.0f);
    if (!row.here) return;
    i64 at = offset(row.token, a.out_stride) + columns.tile * OUT + columns.first;
    write(a.total + at, total);
    write(a.gained + at, total * columns.weight);
    if (columns.first == 0) a.squares_out[offset(row.token, gridDim.y) + columns.tile] = squares;
}

#else

// This lane's share of the sums of a row's squares. The first is not waited for here.
__device__ float read_squares(const Arguments& a, const Row& row) {
    const float* from = a.squares + offset(min(row.token, a.num_tokens - 1), a.square_parts);
    int part = threadIdx.x % LANES;
    float squares = part < a.square_parts ? from[part] : 0.0f;
    for (part += LANES; part < a.square_parts; part += LANES) squares += from[part];
    return squares;
}

__device__ float scale_of(const Arguments& a, const Row& row) {
    return rsqrtf(__fdividef(sum_of_row(row.squares), a.in_features) + a.eps);
}

#endif
#if EPILOGUE == GATE

__device__ void read_late(const Arguments& a, Columns& columns) {}

__device__ void read_late(const Arguments& a, const Columns& columns, Row& row) {}

__device__ void read_ahead(const Arguments& a, const Columns& columns, Row& row) {
    row.squares = read_squares(a, row);
}

__device__ void end_row(const Arguments& a, const Columns& columns, const Row& row, const Quads& product) {
    float scale = scale_of(a, row);
    if (!row.here) return;
    float4 gate = product.first * scale, up = product.second * scale;
    float4 active = make_float4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w));
    write(a.out + offset(row.token, a.out_stride) + columns.tile * HALF + columns.first, active * up);
}

#elif EPILOGUE == HEADS

__device__ bool rotates(const Arguments& a, int head) {
    return head < a.num_heads + a.num_kv_heads;
}

__device__ const bf16* norm_of(const Arguments& a, int head) {
    return head < a.num_heads ? a.q_norm : rotates(a, head) ? a.k_norm : nullptr;
}

__device__ void read_late(const Arguments& a, Columns& columns) {
    if (!columns.here) return;
    const bf16* norm = norm_of(a, columns.tile);
    if (norm != nullptr) columns.weight = read_quads(norm + columns.first);
    if (a.bias != nullptr) columns.bias = read_quads(a.bias + columns.tile * OUT + columns.first);
}

__device__ void read_ahead(const Arguments& a, const Columns& columns, Row& row) {
    row.squares = read_squares(a, row);
    if (!row.here) return;
    row.position = static_cast<int>(a.positions[row.token]);
}

__device__ void read_late(const Arguments& a, const Columns& columns, Row& row) {
    if (!row.here) return;
    row.slot = static_cast<int>(a.slots[row.token]);
    if (!rotates(a, columns.tile)) return;
    const float* table = a.cos_sin + offset(row.position, a.cos_sin_stride) + columns.first;
    row.turn = Quads{*reinterpret_cast<const float4*>(table), *reinterpret_cast<const float4*>(table + HALF)};
}

__device__ bf16* target_of(const Arguments& a, const Row& row, int head) {
    if (head < a.num_heads) return a.out + offset(row.token, a.out_stride) + head * OUT;
    if (row.slot < 0) return nullptr;
    int block = row.slot / a.block_size, in_block = row.slot % a.block_size;
    head -= a.num_heads;
    if (head < a.num_kv_heads) return a.key_cache + block * a.key_block + head * a.key_head + in_block * a.key_slot;
    head -= a.num_kv_heads;
    return a.value_cache + block * a.value_block + head * a.value_head + in_block * a.value_slot;
}

__device__ void end_row(const Arguments& a, const Columns& columns, const Row& row, const Quads& product) {
    Quads head = product * scale_of(a, row) + columns.bias;
    if (norm_of(a, columns.tile) != nullptr) {
        float squares = sum_of_row(row.here ? squared(head.first) + squared(head.second) : 0.0f);
        head = head * rsqrtf(squares / OUT + a.eps) * columns.weight;
    }
    if (rotates(a, columns.tile)) {
        float4 cosine = row.turn.first, sine = row.turn.second;
        head = Quads{head.first * cosine - head.second * sine, head.second * cosine + head.first * sine};
    }
    bf16* to = row.here ? target_of(a, row, columns.tile) : nullptr;
    if (to != nullptr) write(to + columns.first, head);
}

#endif

// Add up a row's sums, in the order of the blocks that they are from.
__device__ Quads take_up(const Ring& ring, const Columns& columns, const Row& row) {
    Quads total{};
    if (!row.here) return total;
#pragma unroll
    for (int split = 0; split < SPLITS; ++split) {
        u32 from = ring.stages + (split == blockIdx.x ? 0 : SENT_AT) + split * SHARE_BYTES;
        from += (row.in_share * STRIDE + columns.first) * 4;
        total = total + Quads{load_quad(from), load_quad(from + HALF * 4)};
    }
    return total;
}

// -- the kernel -------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(ENDERS + 32, 2)
    fused_product(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight,
                  const __grid_constant__ Arguments a) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ u64 barriers[2 * STAGES + 1];
    Ring ring{shared_address(memory), shared_address(barriers), shared_address(barriers + STAGES)};
    u32 sent = shared_address(barriers + 2 * STAGES);
    int steps = a.in_features / INNER, begin = blockIdx.x * steps / SPLITS;
    Share share{begin, static_cast<int>((blockIdx.x + 1) * steps / SPLITS) - begin};
    if (threadIdx.x == ENDERS) {
        prefetch_map(&weight);
        prefetch_map(&x);
        for (int stage = 0; stage < STAGES; ++stage) {
            init_barrier(ring.full + 8 * stage, 1);
            init_barrier(ring.empty + 8 * stage, MULTIPLIERS / 32 * PEERS);
        }
        init_barrier(sent, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        expect_bytes(sent, (SPLITS - 1) * SHARE_BYTES);
    }
    __syncwarp();
    meet_cluster();
    if (threadIdx.x >= ENDERS) {
        if (threadIdx.x > ENDERS) return;
        copy_first_weights(ring, share, &weight, a.out_stride);
        wait_for_inputs();
        start_next();
        copy_rest(ring, share, &x, &weight, a.out_stride);
        return;
    }
    Columns columns{static_cast<int>(blockIdx.y), static_cast<int>(threadIdx.x % LANES * 4)};
    columns.here = columns.first < HALF;
    Row rows[ROUNDS];
    wait_for_inputs();
    start_next();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        rows[round] = row_of(a, blockIdx.x, blockIdx.z * TOKENS, round, columns);
        read_ahead(a, columns, rows[round]);
    }
    if (threadIdx.x < MULTIPLIERS) {
        float sums[HALF] = {};
        multiply_all(ring, share, sums);
        meet(1, MULTIPLIERS);  // the ring has been read: its memory takes the sums
        put_down(ring.stages, sums);
    }
    read_late(a, columns);
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) read_late(a, columns, rows[round]);
    meet(2, ENDERS);
#if SPLITS > 1
    send_shares(ring, sent);
    wait(sent, 0);
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
    Quads products[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) products[round] = take_up(ring, columns, rows[round]);
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) end_row(a, columns, rows[round], products[round]);
#if SPLITS > 1
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");  // what was sent has been read here
#endif
}
