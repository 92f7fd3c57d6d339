// SPDX-License-Identifier: Apache-2.0
//
// FDK on a GPU: weight, filter (around cuFFT), transpose, back-project, read back.
//
// The source needs no header: NVRTC compiles it as it is, and so does a C++ compiler once KERNEL and the few names
// of CUDA used here are defined (tests/support/cuda_host.h).  Every kernel takes one struct, whose members stand in
// order of size, so that the same bytes mean the same on both sides (launches.py mirrors them).
//
// Layouts: volume (y, x, z), z fastest; filtered views (view, col, row), rows fastest, with one border column and
// row of zeros on each side.  A warp is 32 neighbours along z: on an upright panel it reads runs of two columns.
//
// No atomics, and every sum runs over the views in the order in which they come: the same input gives the same
// bytes on the same device.  Pixels are counted from a pixel near each run of 32 voxels, and runs lie on multiples of
// their length in the whole volume: a voxel has the same bits whatever slab, brick or batch it is made in, and float32
// holds positions to about a millionth of a pixel on a panel of any size.
//
// Compile with --fmad=false: products and sums are fused where fmaf() says so and nowhere else, which makes the
// linear and the layered variant agree bit for bit.

#ifndef KERNEL
#define KERNEL(name, Arguments) extern "C" __global__ void name(const Arguments a)
#define BARRIER_KERNEL KERNEL  // its threads wait for each other
#define DEVICE __device__ __forceinline__
#define SHARED __shared__

DEVICE float float_of_half(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE unsigned short half_of_float(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// The hardware's estimate and one step of Newton: within one unit in the last place, without a branch.
DEVICE float reciprocal(float value) {
    float estimate;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(value));
    return fmaf(estimate, fmaf(-value, estimate, 1.0f), estimate);
}
#endif

constexpr int LANES = 32;         // neighbours along z in a warp
constexpr int Z_PER_THREAD = 4;   // voxels of one thread, LANES apart
constexpr int TILE_Z = LANES * Z_PER_THREAD;
constexpr int TILE_X = 4;
constexpr int TILE_Y = 2;
constexpr int STAGED_VIEWS = 32;  // views whose parameters a block holds in shared memory at a time
constexpr int TRANSPOSE = 32;
constexpr int TRANSPOSE_ROWS = 8;
constexpr int REDUCE = 256;

using u64 = unsigned long long;

// ---------------------------------------------------------------------------------------------- virtual views

// Rows of upright views from the frames that saw them: Keys' cubic (1981, a = -1/2), frames blended by the distance
// from their side edges.
struct ResampleViews {
    const float* frames;         // (view, slot, frame row, frame col)
    const double* homographies;  // (view, slot, 3, 3): (col, row, 1) of the view to (col w, row w, w) of the frame
    const int* used;             // (view, slot): 1 where there is a frame
    float* views;                // (view, row, col)
    double feather;              // columns over which a frame's blend weight rises to 1
    double least_blend;
    int n_slots;
    int frame_rows;              // of the whole frame
    int frame_cols;
    int first_frame_row;         // first row that is there
    int n_frame_rows;            // rows that are there
    int first_row;               // of the view
    int n_rows;
    int n_cols;
};

DEVICE void cubic_taps(float t, float taps[4]) {
    taps[0] = ((-0.5f * t + 1.0f) * t - 0.5f) * t;
    taps[1] = (1.5f * t - 2.5f) * t * t + 1.0f;
    taps[2] = ((-1.5f * t + 2.0f) * t + 0.5f) * t;
    taps[3] = (0.5f * t - 0.5f) * t * t;
}

KERNEL(resample_views, ResampleViews) {
    const int col = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y;
    const int view = blockIdx.z;
    if (col >= a.n_cols) return;
    float total = 0.0f, weight = 0.0f;
    for (int slot = 0; slot < a.n_slots; ++slot) {
        const u64 index = (u64)view * a.n_slots + slot;
        if (!a.used[index]) continue;
        const double* m = a.homographies + 9 * index;
        const double c = col, r = a.first_row + row;
        const double w = m[6] * c + m[7] * r + m[8];
        const double x = (m[0] * c + m[1] * r + m[2]) / w, y = (m[3] * c + m[4] * r + m[5]) / w;
        const double edge = fmin(x + 0.5, a.frame_cols - 0.5 - x);
        if (!(edge >= 0.0 && y >= -0.5 && y <= a.frame_rows - 0.5)) continue;
        const float blend = (float)fmin(fmax(edge / a.feather, a.least_blend), 1.0);
        const int left = (int)floor(x), low = (int)floor(y) - a.first_frame_row;
        float taps_x[4], taps_y[4];
        cubic_taps((float)(x - floor(x)), taps_x);
        cubic_taps((float)(y - floor(y)), taps_y);
        float value = 0.0f;
        for (int j = 0; j < 4; ++j) {
            const int from = min(max(low + j - 1, 0), a.n_frame_rows - 1);
            const float* line = a.frames + (index * a.n_frame_rows + from) * a.frame_cols;
            float along = 0.0f;
            for (int i = 0; i < 4; ++i) along = fmaf(taps_x[i], line[min(max(left + i - 1, 0), a.frame_cols - 1)], along);
            value = fmaf(taps_y[j], along, value);
        }
        total = fmaf(blend, value, total);
        weight += blend;
    }
    a.views[((u64)view * a.n_rows + row) * a.n_cols + col] = weight > 0.0f ? total / weight : 0.0f;
}

// ---------------------------------------------------------------------------------------------------- filter

// Rows times their weights into the rows of an FFT; zeros, or a tapered continuation, beyond the panel.
struct WeighRows {
    const float* lines;           // (view, row, col)
    const float* weights;         // (view, or 1 for all, row, col); null: the cosine of each ray times column_weights
    const double* poses;          // (all views, 12): source, middle of the panel, step of a column, step of a row [mm]
    const int* view_indices;      // (view): which of all views these are
    const float* column_weights;  // (view, col); null: 1
    const float* taper;           // (n_taper): what the continuation beyond each side is multiplied by
    float* padded;                // (rows of a chunk, n_fft)
    double middle_col;            // the panel's middle in columns, and in rows counted from the first row here
    double middle_row;
    int first_row;                // of the chunk, counted through all views of the batch
    int n_chunk_rows;             // rows that are there; up to the chunk's size the rest is filled with zeros
    int n_rows;                   // of each view
    int n_cols;
    int n_fft;
    int weight_rows;              // rows from one view's weights to the next; 0: the same for all views
    int n_taper;
    int unused;
};

// Cosine of the angle between a ray and the line from its source to the axis.
DEVICE float cosine(const double* pose, double col, double row) {
    const double x = pose[3] - pose[0] + col * pose[6] + row * pose[9];
    const double y = pose[4] - pose[1] + col * pose[7] + row * pose[10];
    const double z = pose[5] - pose[2] + col * pose[8] + row * pose[11];
    // Differences of large numbers are done; what is left needs no more than float32.
    const float fx = (float)x, fy = (float)y, fz = (float)z, sx = (float)pose[0], sy = (float)pose[1];
    const float length2 = fmaf(fz, fz, fmaf(fy, fy, fx * fx)) * fmaf(sy, sy, sx * sx);
    return -fmaf(fy, sy, fx * sx) / sqrtf(length2);
}

DEVICE float weighted(const WeighRows& a, int row, int col) {
    const int view = row / a.n_rows, row_of_view = row % a.n_rows;
    const float line = a.lines[(u64)row * a.n_cols + col];
    if (a.weights) return line * a.weights[((u64)view * a.weight_rows + row_of_view) * a.n_cols + col];
    const double* pose = a.poses + 12 * (u64)a.view_indices[view];
    const float share = a.column_weights ? a.column_weights[(u64)view * a.n_cols + col] : 1.0f;
    return line * (cosine(pose, col - a.middle_col, row_of_view - a.middle_row) * share);
}

KERNEL(weigh_rows, WeighRows) {
    const int col = blockIdx.x * blockDim.x + threadIdx.x;
    const int chunk_row = blockIdx.y;
    if (col >= a.n_fft) return;
    const int row = a.first_row + chunk_row;
    float value = 0.0f;
    if (chunk_row < a.n_chunk_rows) {
        const int right = col - a.n_cols, left = a.n_fft - 1 - col;
        if (right < 0) {
            value = weighted(a, row, col);
        } else if (right < a.n_taper) {
            // The row turned about its last value, never below zero, and faded out.
            const float last = weighted(a, row, a.n_cols - 1), mirrored = weighted(a, row, max(a.n_cols - 2 - right, 0));
            value = fmaxf(0.0f, fmaf(2.0f, last, -mirrored)) * a.taper[right];
        } else if (left < a.n_taper) {
            // Columns left of the panel stand at the end of the periodic row.
            const float last = weighted(a, row, 0), mirrored = weighted(a, row, min(left + 1, a.n_cols - 1));
            value = fmaxf(0.0f, fmaf(2.0f, last, -mirrored)) * a.taper[left];
        }
    }
    a.padded[(u64)chunk_row * a.n_fft + col] = value;
}

// Spectra times the filter's response, which carries the 1 / n_fft that cuFFT leaves out.
struct MultiplySpectra {
    float* spectra;         // (row, bin) pairs of real and imaginary part
    const float* response;  // (bin)
    int n_bins;
    int n_rows;
};

KERNEL(multiply_spectra, MultiplySpectra) {
    const int bin = blockIdx.x * blockDim.x + threadIdx.x;
    if (bin >= a.n_bins) return;
    float* pair = a.spectra + 2 * ((u64)blockIdx.y * a.n_bins + bin);
    pair[0] *= a.response[bin];
    pair[1] *= a.response[bin];
}

// Columns of periodic rows, cut out as they are.
struct KeepColumns {
    const float* rows;  // (row, period)
    float* kept;        // (row, n_out)
    int period;
    int col_start;      // may be negative: columns left of the panel stand at the end of the row
    int n_out;
    int n_rows;
};

KERNEL(keep_columns, KeepColumns) {
    const int col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= a.n_out) return;
    int from = (a.col_start + col) % a.period;
    from += from < 0 ? a.period : 0;
    a.kept[(u64)blockIdx.y * a.n_out + col] = a.rows[(u64)blockIdx.y * a.period + from];
}

// A power of two for each view that brings its largest value near 2^14, well inside float16.
struct ScaleViews {
    const float* values;  // (view, n_values)
    float* scales;        // (view)
    u64 n_values;
    float gain;           // bound on what later steps multiply the largest value by
    int unused;
};

BARRIER_KERNEL(scale_views, ScaleViews) {
    SHARED float largest[REDUCE];
    const float* values = a.values + blockIdx.x * a.n_values;
    float found = 0.0f;
    for (u64 i = threadIdx.x; i < a.n_values; i += REDUCE) found = fmaxf(found, fabsf(values[i]));
    largest[threadIdx.x] = found;
    for (unsigned width = REDUCE / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width)
            largest[threadIdx.x] = fmaxf(largest[threadIdx.x], largest[threadIdx.x + width]);
    }
    if (threadIdx.x == 0) {
        const float bound = largest[0] * a.gain;
        // Only the exponent counts: 2^(14 - exponent), kept within what float32 can hold with its reciprocal.
        int exponent = (int)((__float_as_uint(bound) >> 23) & 255u) - 127 + 1;
        exponent = exponent < -100 ? -100 : exponent > 100 ? 100 : exponent;
        a.scales[blockIdx.x] = __uint_as_float((unsigned)(127 + 14 - exponent) << 23);
    }
}

// Filtered rows into columns, which is how the back-projection reads them.
struct TransposeRows {
    const float* rows;    // (rows of a chunk, period)
    void* views;          // (view, col + 2, row + 2) float32 or float16
    const float* scales;  // (view), for float16
    int first_row;        // of the chunk, counted through all views of the batch
    int n_chunk_rows;
    int n_rows;           // of each view
    int period;
    int col_start;
    int n_cols;
    int half;             // 1: store float16
    int unused;
};

BARRIER_KERNEL(transpose_rows, TransposeRows) {
    SHARED float tile[TRANSPOSE][TRANSPOSE + 1];
    const int col = blockIdx.x * TRANSPOSE + threadIdx.x;
    int from = (a.col_start + col) % a.period;
    from += from < 0 ? a.period : 0;
    for (int k = threadIdx.y; k < TRANSPOSE; k += TRANSPOSE_ROWS) {
        const int chunk_row = blockIdx.y * TRANSPOSE + k;
        if (chunk_row < a.n_chunk_rows && col < a.n_cols) tile[k][threadIdx.x] = a.rows[(u64)chunk_row * a.period + from];
    }
    __syncthreads();
    const int chunk_row = blockIdx.y * TRANSPOSE + threadIdx.x;
    if (chunk_row >= a.n_chunk_rows) return;
    const int view = (a.first_row + chunk_row) / a.n_rows;
    const int row = (a.first_row + chunk_row) % a.n_rows;
    for (int k = threadIdx.y; k < TRANSPOSE; k += TRANSPOSE_ROWS) {
        const int out_col = blockIdx.x * TRANSPOSE + k;
        if (out_col >= a.n_cols) continue;
        const u64 at = ((u64)view * (a.n_cols + 2) + out_col + 1) * (a.n_rows + 2) + row + 1;
        const float value = tile[threadIdx.x][k];
        if (a.half)
            ((unsigned short*)a.views)[at] = half_of_float(value * a.scales[view]);
        else
            ((float*)a.views)[at] = value;
    }
}

// ------------------------------------------------------------------------------------------- back-projection

struct BackProject {
    const void* views;           // (view, col, row), bordered; the linear variants
    u64 texture;                 // the same, layered: x is the row, y the column; the layered variants
    const double* matrices;      // (all views, 3, 4): column and row of the bordered panel, and depth [mm]
    const double* view_scales;   // (all views): over depth^2, the weight of a view
    const int* view_indices;     // (view): which of all views these are
    const float* storage_scales; // (view): what float16 values were multiplied by; null: nothing
    const float* slice_weights;  // (view, slice); null: 1
    float* volume;               // (y, x, z)
    double origin[3];            // of the whole volume: x, y, z [mm]
    double pitch[3];             // x, y, z [mm]
    double radius2;              // of the field [mm^2]
    int start[3];                // first voxel made: x, y, z
    int shape[3];                // voxels made: x, y, z
    int n_views;
    int n_cols;                  // of the bordered window
    int n_rows;
    int col_offset;              // first column of the bordered window, counted as the matrices count
    int row_offset;
    int unused;
};

// A view as one run of LANES voxels along z, and its neighbours in x and y, see it.  Column and row are counted from a
// pixel near the run, depth in units of the depth of the run's middle; steps are per voxel.
struct alignas(16) StagedView {
    float col, col_x, col_y, col_z;
    float row, row_x, row_y, row_z;
    float depth_x, depth_y, depth_z;
    float weight;
    int first_col, first_row;
};

struct LinearFloat {
    const float* pixels;
    int n_rows;
    DEVICE LinearFloat(const BackProject& a, int view)
        : pixels((const float*)a.views + (u64)view * a.n_cols * a.n_rows), n_rows(a.n_rows) {}
    DEVICE float at(int col, int row) const { return __ldg(pixels + (u64)col * n_rows + row); }
};

struct LinearHalf {
    const unsigned short* pixels;
    int n_rows;
    DEVICE LinearHalf(const BackProject& a, int view)
        : pixels((const unsigned short*)a.views + (u64)view * a.n_cols * a.n_rows), n_rows(a.n_rows) {}
    DEVICE float at(int col, int row) const { return float_of_half(__ldg(pixels + (u64)col * n_rows + row)); }
};

// Point sampling: the hardware's own interpolation has 8 bits of fraction, too few for the stated precision.
struct Layered {
    u64 texture;
    int view;
    DEVICE Layered(const BackProject& a, int index) : texture(a.texture), view(index) {}
    DEVICE float at(int col, int row) const {
        return tex2DLayered<float>((cudaTextureObject_t)texture, row + 0.5f, col + 0.5f, view);
    }
};

// Bring the matrix of one view to the run whose first voxel in x and y and middle in z are given.
DEVICE StagedView stage_view(const BackProject& a, int index, int x, int y, int z) {
    const int view = a.view_indices[index];
    const double* m = a.matrices + 12 * (u64)view;
    const double px = a.origin[0] + x * a.pitch[0], py = a.origin[1] + y * a.pitch[1], pz = a.origin[2] + z * a.pitch[2];
    const double depth = m[8] * px + m[9] * py + m[10] * pz + m[11];
    const double col = (m[0] * px + m[1] * py + m[2] * pz + m[3]) / depth;
    const double row = (m[4] * px + m[5] * py + m[6] * pz + m[7]) / depth;
    // Far outside (a run beside the source) any pixel will do: the window's bounds reject it.
    const double first_col = floor(fmin(fmax(col, -1e8), 1e8)), first_row = floor(fmin(fmax(row, -1e8), 1e8));
    double step[3][3];
    for (int axis = 0; axis < 3; ++axis) {
        const double by = a.pitch[axis] / depth;
        step[0][axis] = (m[axis] - first_col * m[8 + axis]) * by;
        step[1][axis] = (m[4 + axis] - first_row * m[8 + axis]) * by;
        step[2][axis] = m[8 + axis] * by;
    }
    double weight = a.view_scales[view] / (depth * depth);
    if (a.storage_scales) weight /= a.storage_scales[index];
    StagedView s;
    s.col = (float)(col - first_col);
    s.row = (float)(row - first_row);
    s.col_x = (float)step[0][0], s.col_y = (float)step[0][1], s.col_z = (float)step[0][2];
    s.row_x = (float)step[1][0], s.row_y = (float)step[1][1], s.row_z = (float)step[1][2];
    s.depth_x = (float)step[2][0], s.depth_y = (float)step[2][1], s.depth_z = (float)step[2][2];
    s.weight = (float)weight;
    s.first_col = (int)first_col - a.col_offset;
    s.first_row = (int)first_row - a.row_offset;
    return s;
}

// Bilinear value between four pixels; `col` and `row` are those of the first, `u` and `v` the shares of the next.
template <class Views>
DEVICE float sample(const Views& views, int col, int row, float u, float v) {
    const float here = views.at(col, row), above = views.at(col, row + 1);
    const float next = views.at(col + 1, row), next_above = views.at(col + 1, row + 1);
    const float low = fmaf(u, next - here, here), high = fmaf(u, next_above - above, above);
    return fmaf(v, high - low, low);
}

// One view into the voxels of one thread: (i, j) voxels from the tile's first, `k` from the middle of each run.
template <class Views, bool UPRIGHT>
DEVICE void add_view(
    const BackProject& a, const StagedView* staged, const Views& views, int i, int j, int k, unsigned alive,
    const float* slice_weights, float* sums
) {
    const float x = (float)i, y = (float)j, z = (float)k;
    float near = 0.0f, u = 0.0f;
    int iu = 0;
    if (UPRIGHT) {
        // Column and depth are the same all along z: one division for all runs.
        const StagedView& s = staged[0];
        near = reciprocal(fmaf(s.depth_y, y, fmaf(s.depth_x, x, 1.0f)));
        const float position = fmaf(s.col_y, y, fmaf(s.col_x, x, s.col)) * near;
        const int whole = __float2int_rd(position);
        u = position - (float)whole;
        iu = whole + s.first_col;
        if ((unsigned)iu >= (unsigned)(a.n_cols - 1)) return;
    }
#pragma unroll
    for (int n = 0; n < Z_PER_THREAD; ++n) {
        if (!(alive >> n & 1u)) continue;
        const StagedView& s = staged[n];
        float factor = s.weight;
        if (slice_weights) {
            const float share = slice_weights[n * LANES];
            if (share == 0.0f) continue;
            factor *= share;
        }
        if (!UPRIGHT) {
            near = reciprocal(fmaf(s.depth_z, z, fmaf(s.depth_y, y, fmaf(s.depth_x, x, 1.0f))));
            const float position = fmaf(s.col_z, z, fmaf(s.col_y, y, fmaf(s.col_x, x, s.col))) * near;
            const int whole = __float2int_rd(position);
            u = position - (float)whole;
            iu = whole + s.first_col;
            if ((unsigned)iu >= (unsigned)(a.n_cols - 1)) continue;
        }
        const float position = fmaf(s.row_z, z, fmaf(s.row_y, y, fmaf(s.row_x, x, s.row))) * near;
        const int whole = __float2int_rd(position);
        const float v = position - (float)whole;
        const int iv = whole + s.first_row;
        if ((unsigned)iv >= (unsigned)(a.n_rows - 1)) continue;
        sums[n] = fmaf(factor * near * near, sample(views, iu, iv, u, v), sums[n]);
    }
}

template <class Views, bool UPRIGHT>
DEVICE void back_project(const BackProject& a) {
    SHARED StagedView staged[STAGED_VIEWS][Z_PER_THREAD];
    // Tiles lie on multiples of their size in the whole volume, not in the slab.
    const int tile_z = (a.start[2] / TILE_Z + blockIdx.x) * TILE_Z;
    const int tile_x = (a.start[0] / TILE_X + blockIdx.y) * TILE_X;
    const int tile_y = (a.start[1] / TILE_Y + blockIdx.z) * TILE_Y;
    const int x = tile_x + threadIdx.y, y = tile_y + threadIdx.z;
    const double mm_x = a.origin[0] + x * a.pitch[0], mm_y = a.origin[1] + y * a.pitch[1];
    const int ix = x - a.start[0], iy = y - a.start[1];
    const bool inside = ix >= 0 && ix < a.shape[0] && iy >= 0 && iy < a.shape[1] &&
                        mm_x * mm_x + mm_y * mm_y <= a.radius2;
    const int z0 = tile_z + threadIdx.x - a.start[2];
    unsigned alive = 0;
    float sums[Z_PER_THREAD];
    float* run = a.volume + ((long long)iy * a.shape[0] + ix) * a.shape[2] + z0;
#pragma unroll
    for (int n = 0; n < Z_PER_THREAD; ++n) {
        const int z = z0 + n * LANES;
        if (inside && z >= 0 && z < a.shape[2]) alive |= 1u << n;
        sums[n] = alive >> n & 1u ? run[n * LANES] : 0.0f;
    }
    // A block without a voxel to make leaves as a whole.
    if (!__syncthreads_or(alive != 0)) return;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    for (int first = 0; first < a.n_views; first += STAGED_VIEWS) {
        const int count = min(STAGED_VIEWS, a.n_views - first);
        if (thread < count * Z_PER_THREAD) {
            const int view = thread / Z_PER_THREAD, n = thread % Z_PER_THREAD;
            staged[view][n] = stage_view(a, first + view, tile_x, tile_y, tile_z + n * LANES + LANES / 2);
        }
        __syncthreads();
        if (alive) {
            for (int n = 0; n < count; ++n) {
                const int view = first + n;
                const float* shares = a.slice_weights ? a.slice_weights + (long long)view * a.shape[2] + z0 : nullptr;
                add_view<Views, UPRIGHT>(
                    a, staged[n], Views(a, view), threadIdx.y, threadIdx.z, (int)threadIdx.x - LANES / 2, alive,
                    shares, sums
                );
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < Z_PER_THREAD; ++n) {
        if (alive >> n & 1u) run[n * LANES] = sums[n];
    }
}

BARRIER_KERNEL(any_pose_linear_float32, BackProject) { back_project<LinearFloat, false>(a); }
BARRIER_KERNEL(any_pose_linear_float16, BackProject) { back_project<LinearHalf, false>(a); }
BARRIER_KERNEL(any_pose_layered, BackProject) { back_project<Layered, false>(a); }
BARRIER_KERNEL(upright_linear_float32, BackProject) { back_project<LinearFloat, true>(a); }
BARRIER_KERNEL(upright_linear_float16, BackProject) { back_project<LinearHalf, true>(a); }
BARRIER_KERNEL(upright_layered, BackProject) { back_project<Layered, true>(a); }

// ---------------------------------------------------------------------------------------------------- output

// Slices (z, y, x) of a volume (y, x, z), with the stated value outside the field.
struct TakeSlices {
    const float* volume;
    float* slices;     // (n_slices, y, x)
    double origin[2];  // of the whole volume: x, y [mm]
    double pitch[2];
    double radius2;    // of the field [mm^2]
    float outside;     // [1/mm]
    int start[2];      // first voxel made: x, y
    int z_start;       // first slice taken, counted in the slab
    int n_slices;
    int ny;
    int nx;
    int nz;
};

BARRIER_KERNEL(take_slices, TakeSlices) {
    SHARED float tile[TRANSPOSE][TRANSPOSE + 1];
    const int n_columns = a.ny * a.nx;
    const int z = blockIdx.y * TRANSPOSE + threadIdx.x;
    for (int k = threadIdx.y; k < TRANSPOSE; k += TRANSPOSE_ROWS) {
        const int column = blockIdx.x * TRANSPOSE + k;
        if (z < a.n_slices && column < n_columns) tile[k][threadIdx.x] = a.volume[(u64)column * a.nz + a.z_start + z];
    }
    __syncthreads();
    const int column = blockIdx.x * TRANSPOSE + threadIdx.x;
    if (column >= n_columns) return;
    const double x = a.origin[0] + (a.start[0] + column % a.nx) * a.pitch[0];
    const double y = a.origin[1] + (a.start[1] + column / a.nx) * a.pitch[1];
    const bool inside = x * x + y * y <= a.radius2;
    for (int k = threadIdx.y; k < TRANSPOSE; k += TRANSPOSE_ROWS) {
        const int slice = blockIdx.y * TRANSPOSE + k;
        if (slice < a.n_slices) a.slices[(u64)slice * n_columns + column] = inside ? tile[threadIdx.x][k] : a.outside;
    }
}
