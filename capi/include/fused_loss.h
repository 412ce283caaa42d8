// fused-loss: deep-learning losses with value and gradient fused in one pass, on the CPU and on NVIDIA GPUs.
//
// A handle says where losses are computed. A loss is one function, which takes the handle, its options (null for the defaults) and
// the call with the buffers. Every function returns a status code; fl_last_error tells what went wrong, and then nothing was written.
// Structs begin with their size, which their init function sets. Link with -lfused_loss.
//
// What every caller promises: a pointer is null, or to what its type says, which lives and which nobody else writes meanwhile; the
// buffers of a call are as long as it says, on the handle's device, and neither written while they are read nor used while they are
// written, on a GPU until what is enqueued has been done. Null pointers, lengths, alignment and overlaps are checked; on a GPU also that
// the memory is its own.
//
// Made by cbindgen from capi/src: FUSED_LOSS_WRITE_HEADER=1 cargo test -p fused-loss-capi header

#ifndef FUSED_LOSS_H
#define FUSED_LOSS_H

#include <stddef.h>
#include <stdint.h>

// The version of the header; `fl_version` has that of the library.
#define FL_VERSION 1000

// What a function returns. Everything but `FL_OK` means that nothing was written (but of `fl_check`, which tells of calls that
// have run), and that `fl_last_error` says why.
typedef enum {
  // Done; on a GPU: enqueued.
  FL_OK = 0,
  // A null pointer where something is needed.
  FL_ERROR_NULL = 1,
  // A struct that was not initialised by its init function, or that a newer library would understand.
  FL_ERROR_STRUCT = 2,
  // A buffer has the wrong number of elements, or a shape is impossible.
  FL_ERROR_LENGTH = 3,
  // A buffer is not aligned as its elements are, or overlaps one that is written.
  FL_ERROR_MEMORY = 4,
  // An option, or a code such as a dtype, has an impossible value.
  FL_ERROR_OPTION = 5,
  // A class index is neither a class nor the ignored index.
  FL_ERROR_CLASS_INDEX = 6,
  // The loss does not do what was asked of it.
  FL_ERROR_UNSUPPORTED = 7,
  // A buffer or a stream of another device.
  FL_ERROR_DEVICE = 8,
  // Memory could not be had.
  FL_ERROR_OUT_OF_MEMORY = 9,
  // There is no CUDA to be used: no driver, no GPU, or no kernels for it.
  FL_ERROR_NO_CUDA = 10,
  // A call of the CUDA driver failed.
  FL_ERROR_CUDA = 11,
  // It cannot be done while a CUDA graph is captured.
  FL_ERROR_CAPTURING = 12,
  // A defect of this library; please report it.
  FL_ERROR_INTERNAL = 13,
} fl_status;

// The storage type of input, dense targets and gradients. Weights and values are always f32, and so is all arithmetic.
typedef enum {
  // `float`
  FL_F32 = 0,
  // IEEE half precision.
  FL_F16 = 1,
  // bfloat16
  FL_BF16 = 2,
} fl_dtype;

// What the targets are.
typedef enum {
  // The loss needs none, as a GAN term.
  FL_TARGET_NONE = 0,
  // One value of the input's type for each input element.
  FL_TARGET_DENSE = 1,
  // One class index a row, as `int64_t`.
  FL_TARGET_I64 = 2,
  // One class index a row, as `int32_t`.
  FL_TARGET_I32 = 3,
  // One class index a row, as `uint32_t`.
  FL_TARGET_U32 = 4,
  // One class index a row, as `uint8_t`.
  FL_TARGET_U8 = 5,
} fl_target;

// How the losses of elements, rows or regions become one number, and with it the factor that every gradient carries.
typedef enum {
  // They do not: `value` has one for each.
  FL_NONE = 0,
  // Divided by the number of losses (class indices: of rows that are not ignored, or the sum of their class weights).
  FL_MEAN = 1,
  // Not divided.
  FL_SUM = 2,
  // Divided by `batch`.
  FL_BATCH_MEAN = 3,
  // Divided by the sum of all weights.
  FL_WEIGHTED_MEAN = 4,
  // Divided by `denominator`, or by what is at `denominator_at`.
  FL_SUM_OVER = 5,
} fl_reduction;

// The labels of hinge losses.
typedef enum {
  // -1 and 1.
  FL_LABELS_SIGNED = 0,
  // 0 and 1.
  FL_LABELS_ZERO_ONE = 1,
  // Keras's: 0 and 1 if there are no others, else as they are.
  FL_LABELS_KERAS = 2,
} fl_hinge_labels;

// What comes before a region loss.
typedef enum {
  // The input is probabilities.
  FL_ACTIVATION_NONE = 0,
  // The input is logits; a sigmoid each.
  FL_ACTIVATION_SIGMOID = 1,
  // The input is logits; a softmax over the channels.
  FL_ACTIVATION_SOFTMAX = 2,
} fl_activation;

// Kinds of GAN losses.
typedef enum {
  // `-ln D(G(z))` for the generator.
  FL_GAN_NON_SATURATING = 0,
  // `ln(1 - D(G(z)))` for the generator.
  FL_GAN_MINIMAX = 1,
  // Least squares.
  FL_GAN_LEAST_SQUARES = 2,
  // Wasserstein.
  FL_GAN_WASSERSTEIN = 3,
  // Hinge.
  FL_GAN_HINGE = 4,
  // Non-saturating, of probabilities in place of logits.
  FL_GAN_PROBABILITIES = 5,
} fl_gan_mode;

// Terms of a GAN loss.
typedef enum {
  // The discriminator's, of real samples.
  FL_GAN_REAL = 0,
  // The discriminator's, of fake samples.
  FL_GAN_FAKE = 1,
  // The generator's.
  FL_GAN_GENERATOR = 2,
} fl_gan_term;

// Kinds of gradient penalty.
typedef enum {
  // `lambda (norm - 1)^2`
  FL_PENALTY_WGAN_GP = 0,
  // `gamma / 2 norm^2`
  FL_PENALTY_R1 = 1,
} fl_penalty;

// How generalised Dice weighs a channel, by what its target adds up to.
typedef enum {
  // The inverse of its square.
  FL_DICE_WEIGHT_SQUARE = 0,
  // Its inverse.
  FL_DICE_WEIGHT_SIMPLE = 1,
  // 1.
  FL_DICE_WEIGHT_UNIFORM = 2,
} fl_dice_weight;

// What DPO makes of a preference.
typedef enum {
  // The logistic loss of the paper.
  FL_DPO_SIGMOID = 0,
  // A margin, as in SLiC.
  FL_DPO_HINGE = 1,
  // A square, as in IPO.
  FL_DPO_IPO = 2,
} fl_dpo_variant;

// What is taken from an overlap.
typedef enum {
  // Nothing: the intersection over the union.
  FL_BOX_IOU = 0,
  // The empty part of the box around both.
  FL_BOX_GIOU = 1,
  // The distance of the centres.
  FL_BOX_DIOU = 2,
  // That, and how far proportions differ.
  FL_BOX_CIOU = 3,
} fl_box_iou_kind;

// The losses that can be terms of a sum, each with the options of the function of its name.
typedef enum {
  FL_TERM_MSE = 0,
  // Has no options.
  FL_TERM_MAE = 1,
  FL_TERM_HUBER = 2,
  FL_TERM_SMOOTH_L1 = 3,
  FL_TERM_BCE = 4,
  FL_TERM_BCE_WITH_LOGITS = 5,
  FL_TERM_HINGE = 6,
  FL_TERM_SQUARED_HINGE = 7,
  FL_TERM_KL_DIV = 8,
  FL_TERM_KL_DIV_PROBS = 9,
  FL_TERM_SIGMOID_FOCAL = 10,
  FL_TERM_DICE = 11,
  FL_TERM_TVERSKY = 12,
  FL_TERM_CROSS_ENTROPY = 13,
  FL_TERM_DISTILLATION = 14,
  FL_TERM_SOFTMAX_FOCAL = 15,
  // Has no options.
  FL_TERM_LOG_COSH = 16,
  FL_TERM_QUANTILE = 17,
  FL_TERM_POISSON_NLL = 18,
  // Has no options.
  FL_TERM_SOFT_MARGIN = 19,
} fl_term_loss;

// Where losses are computed: the CPU, or a stream of a GPU with the kernels and the little memory that they need between
// themselves.
//
// A CPU handle serves any number of threads at once. So does one of a GPU, whose calls follow one another on its stream; for calls
// that shall run at the same time, make a handle for each stream.
typedef struct fl_handle fl_handle;

// A buffer that is read: its address, and its length in elements. Null is none.
typedef struct {
  // On the handle's device.
  const void *data;
  // Elements, not bytes.
  size_t len;
} fl_in;

// A buffer that is written. Null is none.
typedef struct {
  // On the handle's device.
  void *data;
  // Elements, not bytes.
  size_t len;
} fl_out;

// One call of a loss: buffers, shape, reduction. `fl_call_init` sets everything to nothing, f32, the mean, and an upstream gradient
// of 1; what the call needs is then filled in.
//
// Every buffer is on the handle's device, and aligned as its elements are. Buffers that are written overlap no other, but that
// `grad_input` may be `input` itself: the gradient is then written over the input.
typedef struct {
  // Set by `fl_call_init`.
  size_t size;
  // An `fl_dtype`.
  int32_t dtype;
  // An `fl_reduction`.
  int32_t reduction;
  // The prediction, logits or probabilities: row-major, contiguous.
  fl_in input;
  // See `target_kind`.
  fl_in target;
  // An `fl_target`. `FL_TARGET_DENSE` after `fl_call_init`.
  int32_t target_kind;
  // 1: adds to the gradients instead of overwriting them; 0.
  int32_t accumulate;
  // Rows before the class axis; of losses with a class axis, for which `outer * classes * inner` is the input's length.
  size_t outer;
  // Classes, channels, or elements of a sample; 0 for losses without.
  size_t classes;
  // Positions behind the class axis; 1 after `fl_call_init`, for classes on the last axis.
  size_t inner;
  // f32: one for each loss.
  fl_in weight;
  // f32: one for each sample of several consecutive losses. Not together with `weight`.
  fl_in sample_weight;
  // f32: one for each class.
  fl_in class_weight;
  // The upstream gradient, such as an AMP loss scale: multiplied in before gradients are rounded. 1 after `fl_call_init`.
  float grad_output;
  // Null, or where the upstream gradient is, which then is used in place of `grad_output`: one f32 on the handle's device.
  const float *grad_output_at;
  // f32: an upstream gradient for each loss, with `FL_NONE` alone.
  fl_in grad_outputs;
  // Of `FL_BATCH_MEAN`.
  size_t batch;
  // Of `FL_SUM_OVER`; finite and above zero.
  double denominator;
  // Null, or where the denominator of `FL_SUM_OVER` is: one f32 on the handle's device.
  const float *denominator_at;
  // f32: one, or with `FL_NONE` one for each loss. Null if it is not wanted.
  fl_out value;
  // Null if it is not wanted; else as long as the input.
  fl_out grad_input;
  // Null if it is not wanted; else as long as the target, for losses that have a gradient there.
  fl_out grad_target;
  // The third tensor of losses of three, of the input's type: as long as the input, or one number a row, as the loss says.
  fl_in third;
  // Null if it is not wanted; else as long as `third`, for losses that have a gradient there.
  fl_out grad_third;
  // f32: null if it is not wanted; else the value of each term of a sum of losses, without its weight. Not with `FL_NONE`.
  fl_out terms;
  // Of `fl_cross_entropy`, null if it is not wanted; else one a row, as are those that follow. f32: the log-probability of the target,
  // that of the softmax without smoothing and weights. For class indices. 0 for a row that is ignored.
  fl_out log_prob;
  // f32: the entropy of the softmax, in nats. 0 for a row that is ignored.
  fl_out entropy;
  // f32: the log-sum-exp. 0 for a row that is ignored.
  fl_out lse;
  // f32: 1 where the target is `argmax`, else 0. For class indices.
  fl_out hit;
  // `int64_t`: the class of the largest logit, the first of several. -1 for a row that is ignored, or whose softmax is NaN.
  fl_out argmax;
} fl_call;

// Options of `fl_cross_entropy`.
typedef struct {
  // Set by `fl_cross_entropy_options_init`.
  size_t size;
  // Spreads this part of the target over all classes. 0.
  float label_smoothing;
  // Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
  int64_t ignore_index;
  // 1; 0: no row is left out.
  int32_t has_ignore_index;
  // Adds `z_loss * lse^2`. 0.
  float z_loss;
  // Bends logits to `softcap * tanh(z / softcap)` first; 0: leaves them. 0.
  float softcap;
} fl_cross_entropy_options;

// Options of `fl_cross_entropy_probs`.
typedef struct {
  // Set by `fl_cross_entropy_probs_options_init`.
  size_t size;
  // Normalised probabilities are clipped to `[epsilon, 1 - epsilon]`. 1e-7.
  float epsilon;
  // Spreads this part of the target over all classes. 0.
  float label_smoothing;
  // Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
  int64_t ignore_index;
  // 1; 0: no row is left out.
  int32_t has_ignore_index;
} fl_cross_entropy_probs_options;

// Options of `fl_nll`.
typedef struct {
  // Set by `fl_nll_options_init`.
  size_t size;
  // Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
  int64_t ignore_index;
  // 1; 0: no row is left out.
  int32_t has_ignore_index;
} fl_nll_options;

// Options of `fl_multi_margin`.
typedef struct {
  // Set by `fl_multi_margin_options_init`.
  size_t size;
  // The exponent, 1 or 2. 1.
  uint32_t p;
  // The margin; finite. 1.
  float margin;
} fl_multi_margin_options;

// Options of `fl_softmax_focal`.
typedef struct {
  // Set by `fl_softmax_focal_options_init`.
  size_t size;
  // The exponent; zero or above. 2.
  float gamma;
  // Rows with this index are left out, if `has_ignore_index`; it may be a class. -100.
  int64_t ignore_index;
  // 1; 0: no row is left out.
  int32_t has_ignore_index;
} fl_softmax_focal_options;

// Options of `fl_distillation`.
typedef struct {
  // Set by `fl_distillation_options_init`.
  size_t size;
  // Divides both logits; above zero. 1.
  float temperature;
  // 1: the value is multiplied by `temperature^2`; 0.
  int32_t scale_by_t2;
} fl_distillation_options;

// Options of `fl_jsd`.
typedef struct {
  // Set by `fl_jsd_options_init`.
  size_t size;
  // The mixture has this share of the teacher; in (0, 1]. 0.5.
  float beta;
  // Divides both logits; above zero. 1.
  float temperature;
} fl_jsd_options;

// Options of `fl_mse`.
typedef struct {
  // Set by `fl_mse_options_init`.
  size_t size;
  // 1: half the squared error, `(x - t)^2 / 2`; 0.
  int32_t half;
} fl_mse_options;

// Options of `fl_huber`.
typedef struct {
  // Set by `fl_huber_options_init`.
  size_t size;
  // Where the parabola ends; above zero. 1.
  float delta;
} fl_huber_options;

// Options of `fl_smooth_l1`.
typedef struct {
  // Set by `fl_smooth_l1_options_init`.
  size_t size;
  // Where the parabola ends; zero or above. 1.
  float beta;
} fl_smooth_l1_options;

// Options of `fl_bce`.
typedef struct {
  // Set by `fl_bce_options_init`.
  size_t size;
  // Keras's clip to `[epsilon, 1 - epsilon]`; 0 for PyTorch's form, which clamps logarithms at -100. 0.
  float epsilon;
  // Keras's rule: `t (1 - s) + s / 2`. 0.
  float label_smoothing;
} fl_bce_options;

// Options of `fl_bce_with_logits`.
typedef struct {
  // Set by `fl_bce_with_logits_options_init`.
  size_t size;
  // Multiplies the cost of positives; finite, zero or above. 1.
  float pos_weight;
  // Keras's rule: `t (1 - s) + s / 2`. 0.
  float label_smoothing;
} fl_bce_with_logits_options;

// Options of `fl_hinge`.
typedef struct {
  // Set by `fl_hinge_options_init`.
  size_t size;
  // An `fl_hinge_labels`. `FL_LABELS_SIGNED`.
  int32_t labels;
} fl_hinge_options;

// Options of `fl_squared_hinge`.
typedef struct {
  // Set by `fl_squared_hinge_options_init`.
  size_t size;
  // An `fl_hinge_labels`. `FL_LABELS_SIGNED`.
  int32_t labels;
} fl_squared_hinge_options;

// Options of `fl_kl_div`.
typedef struct {
  // Set by `fl_kl_div_options_init`.
  size_t size;
  // 1: targets are log-probabilities too; 0.
  int32_t log_target;
} fl_kl_div_options;

// Options of `fl_kl_div_probs`.
typedef struct {
  // Set by `fl_kl_div_probs_options_init`.
  size_t size;
  // Both sides are clipped to `[epsilon, 1]`. 1e-7.
  float epsilon;
} fl_kl_div_probs_options;

// Options of `fl_sigmoid_focal`.
typedef struct {
  // Set by `fl_sigmoid_focal_options_init`.
  size_t size;
  // Weight of positives, that of negatives being `1 - alpha`; -1 weighs neither. 0.25.
  float alpha;
  // The exponent; zero or above. 2.
  float gamma;
} fl_sigmoid_focal_options;

// Options of `fl_quantile`.
typedef struct {
  // Set by `fl_quantile_options_init`.
  size_t size;
  // The quantile that is predicted; in (0, 1). 0.5.
  float quantile;
} fl_quantile_options;

// Options of `fl_cosine_embedding`.
typedef struct {
  // Set by `fl_cosine_embedding_options_init`.
  size_t size;
  // The cosine up to which pairs that do not belong together cost nothing; in [-1, 1]. 0.
  float margin;
} fl_cosine_embedding_options;

// Options of `fl_triplet_margin`.
typedef struct {
  // Set by `fl_triplet_margin_options_init`.
  size_t size;
  // By how much further away the negative has to be; above zero. 1.
  float margin;
  // Added to differences; zero or above. 1e-6.
  float eps;
  // 1: the negative is as far as it is from the anchor or the positive, whichever is nearer; 0.
  int32_t swap;
} fl_triplet_margin_options;

// Options of `fl_box_iou`.
typedef struct {
  // Set by `fl_box_iou_options_init`.
  size_t size;
  // An `fl_box_iou_kind`. `FL_BOX_IOU`.
  int32_t kind;
  // Added to areas that are divided by; above zero. 1e-7.
  float eps;
} fl_box_iou_options;

// Options of `fl_gan`.
typedef struct {
  // Set by `fl_gan_options_init`.
  size_t size;
  // An `fl_gan_mode`. `FL_GAN_NON_SATURATING`.
  int32_t mode;
  // An `fl_gan_term`. `FL_GAN_REAL`.
  int32_t term;
  // One-sided label smoothing, such as 0.9; 1 in modes without labels. 1.
  float real_label;
} fl_gan_options;

// Options of `fl_relativistic_average`.
typedef struct {
  // Set by `fl_relativistic_average_options_init`.
  size_t size;
  // 1: the generator's loss; 0: the discriminator's.
  int32_t generator;
} fl_relativistic_average_options;

// Options of `fl_gradient_penalty`.
typedef struct {
  // Set by `fl_gradient_penalty_options_init`.
  size_t size;
  // An `fl_penalty`. `FL_PENALTY_WGAN_GP`.
  int32_t kind;
  // lambda of WGAN-GP, gamma of R1; zero or above. 10.
  float weight;
} fl_gradient_penalty_options;

// Options of `fl_poisson_nll`.
typedef struct {
  // Set by `fl_poisson_nll_options_init`.
  size_t size;
  // 1: the input is the logarithm of the rate; 0: the rate. 1.
  int32_t log_input;
  // 1: with Stirling's approximation of the term of the target alone; 0.
  int32_t full;
  // Added to a rate before its logarithm; zero or above. 1e-8.
  float eps;
} fl_poisson_nll_options;

// Options of `fl_gaussian_nll`.
typedef struct {
  // Set by `fl_gaussian_nll_options_init`.
  size_t size;
  // 1: with the constant `ln(2 pi) / 2`; 0.
  int32_t full;
  // The least variance; above zero. 1e-6.
  float eps;
} fl_gaussian_nll_options;

// Options of `fl_margin_ranking`.
typedef struct {
  // Set by `fl_margin_ranking_options_init`.
  size_t size;
  // By how much the one must be above the other; finite. 0.
  float margin;
} fl_margin_ranking_options;

// Options of `fl_dpo`.
typedef struct {
  // Set by `fl_dpo_options_init`.
  size_t size;
  // How strongly the policy is held to the reference; above zero. 0.1.
  float beta;
  // The share of preferences that are the wrong way round; in [0, 0.5). 0.
  float label_smoothing;
  // An `fl_dpo_variant`. `FL_DPO_SIGMOID`.
  int32_t variant;
} fl_dpo_options;

// Options of `fl_dice`.
typedef struct {
  // Set by `fl_dice_options_init`.
  size_t size;
  // An `fl_activation`. `FL_ACTIVATION_NONE`.
  int32_t activation;
  // Added to the numerator; zero or above. 1.
  float smooth_nr;
  // Added to the denominator; zero or above. 1.
  float smooth_dr;
  // 1: a region is a channel of the whole batch; 0: of one sample.
  int32_t batch;
  // 1; 0: channel 0 has no loss.
  int32_t include_background;
  // 1: squares in the denominator; 0.
  int32_t squared_pred;
  // 1: Jaccard (intersection over union) in place of Dice; 0.
  int32_t jaccard;
} fl_dice_options;

// Options of `fl_tversky`.
typedef struct {
  // Set by `fl_tversky_options_init`.
  size_t size;
  // The price of false positives; zero or above. 0.5.
  float alpha;
  // The price of false negatives; zero or above. 0.5.
  float beta;
  // An `fl_activation`. `FL_ACTIVATION_NONE`.
  int32_t activation;
  // Added to the numerator; zero or above. 1.
  float smooth_nr;
  // Added to the denominator; zero or above. 1.
  float smooth_dr;
  // 1: a region is a channel of the whole batch; 0: of one sample.
  int32_t batch;
  // 1; 0: channel 0 has no loss.
  int32_t include_background;
  // The exponent of focal Tversky; above zero. 1.
  float focal;
} fl_tversky_options;

// Options of `fl_generalized_dice`.
typedef struct {
  // Set by `fl_generalized_dice_options_init`.
  size_t size;
  // An `fl_activation`. `FL_ACTIVATION_NONE`.
  int32_t activation;
  // An `fl_dice_weight`. `FL_DICE_WEIGHT_SQUARE`.
  int32_t weight;
  // Added to the numerator; zero or above. 1e-5.
  float smooth_nr;
  // Added to the denominator; zero or above. 1e-5.
  float smooth_dr;
  // 1: one overlap of the whole batch; 0: of each sample.
  int32_t batch;
  // 1; 0: channel 0 is left out.
  int32_t include_background;
} fl_generalized_dice_options;

// Options of `fl_lovasz_hinge`.
typedef struct {
  // Set by `fl_lovasz_hinge_options_init`.
  size_t size;
  // 1: a region is a channel of the whole batch; 0: of one sample. 0.
  int32_t batch;
} fl_lovasz_hinge_options;

// Options of `fl_lovasz_softmax`.
typedef struct {
  // Set by `fl_lovasz_softmax_options_init`.
  size_t size;
  // 1: a region is a class of the whole batch; 0: of one sample. 1.
  int32_t batch;
  // 1: classes that do not occur count too; 0.
  int32_t all_classes;
  // Positions with this index are left out, if `has_ignore_index`; it may be a class. -100.
  int64_t ignore_index;
  // 1 or 0. 0.
  int32_t has_ignore_index;
} fl_lovasz_softmax_options;

// A term of `fl_sum`.
typedef struct {
  // An `fl_term_loss`.
  int32_t loss;
  // What it is multiplied by; finite.
  float weight;
  // Of that loss, such as an `fl_huber_options`; null for the defaults.
  const void *options;
} fl_term;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Fills in a call with its defaults.
void fl_call_init(fl_call *call);

// A handle of the CPU, with all its cores (`RAYON_NUM_THREADS` sets how many threads there are).
fl_status fl_cpu(fl_handle **out);

// A handle of a GPU (by its number) and of a stream of its primary context, which is the one that the CUDA runtime uses: a
// `CUstream` or `cudaStream_t`, null for the default stream. The stream must outlive the handle.
fl_status fl_cuda(int32_t ordinal,
                  void *stream,
                  fl_handle **out);

// Goes on on another stream of the same GPU (of a CPU handle: does nothing). Nothing is allocated, so that a stream that is being
// captured can have a handle that was made before. No other thread may use the handle meanwhile.
fl_status fl_set_stream(fl_handle *handle,
                        void *stream);

// Loads all kernels of a GPU, which takes a while where the driver has to compile them: losses that have not been called before can
// be captured into a CUDA graph then. Nothing on the CPU.
fl_status fl_load_all(const fl_handle *handle);

// Waits for the stream, and returns `FL_ERROR_CLASS_INDEX` if any call since the last check met a class index that is neither a
// class nor the ignored index: its row has a gradient of zero, and the value of its call is NaN. (The CPU refuses such a call.)
fl_status fl_check(const fl_handle *handle);

// What the handle is, such as `CPU (AVX-512, 2 threads)`; it lives as long as the handle. Null for null.
const char *fl_describe(const fl_handle *handle);

// Frees a handle; nothing for null.
void fl_destroy(fl_handle *handle);

// The version, `1000000 * major + 1000 * minor + patch`: what `FL_VERSION` of a header may be at most.
uint32_t fl_version(void);

// Fills in the defaults.
void fl_cross_entropy_options_init(fl_cross_entropy_options *options);

// Cross-entropy of logits: PyTorch's `cross_entropy`. Targets are class indices, or probabilities (which have a gradient).
fl_status fl_cross_entropy(const fl_handle *handle,
                           const fl_cross_entropy_options *options,
                           const fl_call *call);

// Fills in the defaults.
void fl_cross_entropy_probs_options_init(fl_cross_entropy_probs_options *options);

// Cross-entropy of probabilities, which are normalised and clipped first: Keras's form. With logits, take `fl_cross_entropy`.
fl_status fl_cross_entropy_probs(const fl_handle *handle,
                                 const fl_cross_entropy_probs_options *options,
                                 const fl_call *call);

// Fills in the defaults.
void fl_nll_options_init(fl_nll_options *options);

// Negative log-likelihood of log-probabilities: PyTorch's `nll_loss`.
fl_status fl_nll(const fl_handle *handle, const fl_nll_options *options, const fl_call *call);

// Categorical hinge, `max(0, 1 + best wrong - right)`: Keras's form.
fl_status fl_categorical_hinge(const fl_handle *handle, const fl_call *call);

// Fills in the defaults.
void fl_multi_margin_options_init(fl_multi_margin_options *options);

// Multi-class margin: PyTorch's `multi_margin_loss`.
fl_status fl_multi_margin(const fl_handle *handle, const fl_multi_margin_options *options, const fl_call *call);

// Fills in the defaults.
void fl_softmax_focal_options_init(fl_softmax_focal_options *options);

// Focal loss of logits with a softmax over the classes; `class_weight` of the call is alpha.
fl_status fl_softmax_focal(const fl_handle *handle, const fl_softmax_focal_options *options, const fl_call *call);

// Fills in the defaults.
void fl_distillation_options_init(fl_distillation_options *options);

// KL divergence of the softmax of logits (the input, a student) from that of the target (a teacher).
fl_status fl_distillation(const fl_handle *handle, const fl_distillation_options *options, const fl_call *call);

// Fills in the defaults.
void fl_jsd_options_init(fl_jsd_options *options);

// Generalised Jensen-Shannon divergence of the softmaxes of two logits, the input a student's and the target a teacher's: TRL's.
// Gradients for input and target.
fl_status fl_jsd(const fl_handle *handle,
                 const fl_jsd_options *options,
                 const fl_call *call);

// Fills in the defaults.
void fl_mse_options_init(fl_mse_options *options);

// Squared error, `(x - t)^2`. Gradients for input and target.
fl_status fl_mse(const fl_handle *handle, const fl_mse_options *options, const fl_call *call);

// Absolute error, `|x - t|`, with subgradient 0 at 0. Gradients for input and target.
fl_status fl_mae(const fl_handle *handle, const fl_call *call);

// Fills in the defaults.
void fl_huber_options_init(fl_huber_options *options);

// Huber: a parabola up to `delta`, a line beyond. Gradients for input and target.
fl_status fl_huber(const fl_handle *handle, const fl_huber_options *options, const fl_call *call);

// Fills in the defaults.
void fl_smooth_l1_options_init(fl_smooth_l1_options *options);

// Smooth L1: Huber divided by `beta`; absolute error if `beta` is 0. Gradients for input and target.
fl_status fl_smooth_l1(const fl_handle *handle, const fl_smooth_l1_options *options, const fl_call *call);

// Fills in the defaults.
void fl_bce_options_init(fl_bce_options *options);

// Binary cross-entropy of probabilities. With logits, take `fl_bce_with_logits`. Gradients for input and target.
fl_status fl_bce(const fl_handle *handle, const fl_bce_options *options, const fl_call *call);

// Fills in the defaults.
void fl_bce_with_logits_options_init(fl_bce_with_logits_options *options);

// Binary cross-entropy of logits; `class_weight` of the call is PyTorch's `pos_weight` of each class, the last axis.
// Gradients for input and target.
fl_status fl_bce_with_logits(const fl_handle *handle, const fl_bce_with_logits_options *options, const fl_call *call);

// Fills in the defaults.
void fl_hinge_options_init(fl_hinge_options *options);

// Hinge, `max(0, 1 - y x)`, of labels y = -1 or 1.
fl_status fl_hinge(const fl_handle *handle, const fl_hinge_options *options, const fl_call *call);

// Fills in the defaults.
void fl_squared_hinge_options_init(fl_squared_hinge_options *options);

// Squared hinge, `max(0, 1 - y x)` squared, of labels y = -1 or 1.
fl_status fl_squared_hinge(const fl_handle *handle, const fl_squared_hinge_options *options, const fl_call *call);

// Fills in the defaults.
void fl_kl_div_options_init(fl_kl_div_options *options);

// KL divergence of log-probabilities (the input) from the target: PyTorch's `kl_div`. Gradients for input and target.
fl_status fl_kl_div(const fl_handle *handle, const fl_kl_div_options *options, const fl_call *call);

// Fills in the defaults.
void fl_kl_div_probs_options_init(fl_kl_div_probs_options *options);

// KL divergence `t ln(t / p)` of probabilities, clipped: Keras's form.
fl_status fl_kl_div_probs(const fl_handle *handle, const fl_kl_div_probs_options *options, const fl_call *call);

// Fills in the defaults.
void fl_sigmoid_focal_options_init(fl_sigmoid_focal_options *options);

// Focal loss of logits with a sigmoid each: torchvision's `sigmoid_focal_loss`.
fl_status fl_sigmoid_focal(const fl_handle *handle, const fl_sigmoid_focal_options *options, const fl_call *call);

// Log-cosh, `ln(cosh(x - t))`: Keras's `LogCosh`. Gradients for input and target.
fl_status fl_log_cosh(const fl_handle *handle, const fl_call *call);

// Fills in the defaults.
void fl_quantile_options_init(fl_quantile_options *options);

// Quantile (pinball): the error times `quantile` where the input is too low, times the rest of 1 where it is too high. Gradients for
// input and target.
fl_status fl_quantile(const fl_handle *handle,
                      const fl_quantile_options *options,
                      const fl_call *call);

// Soft margin, `ln(1 + exp(-y x))` of labels y = -1 or 1: PyTorch's `soft_margin_loss`.
fl_status fl_soft_margin(const fl_handle *handle, const fl_call *call);

// Fills in the defaults.
void fl_cosine_embedding_options_init(fl_cosine_embedding_options *options);

// Cosine embedding of rows (`classes` are the features): `third` of the call has 1 for each pair that belongs together and -1 for
// each that does not. PyTorch's `cosine_embedding_loss`. Gradients for input and target.
fl_status fl_cosine_embedding(const fl_handle *handle,
                              const fl_cosine_embedding_options *options,
                              const fl_call *call);

// Fills in the defaults.
void fl_triplet_margin_options_init(fl_triplet_margin_options *options);

// Triplet margin of rows: anchors are the input, positives the target, negatives `third` of the call, each with a gradient.
// PyTorch's `triplet_margin_loss` of p = 2.
fl_status fl_triplet_margin(const fl_handle *handle,
                            const fl_triplet_margin_options *options,
                            const fl_call *call);

// Fills in the defaults.
void fl_box_iou_options_init(fl_box_iou_options *options);

// One minus the overlap of boxes, rows of x1, y1, x2, y2 (`classes` is 4): torchvision's `generalized_box_iou_loss` and its kin.
// Gradients for input and target.
fl_status fl_box_iou(const fl_handle *handle,
                     const fl_box_iou_options *options,
                     const fl_call *call);

// Fills in the defaults.
void fl_gan_options_init(fl_gan_options *options);

// One term of a GAN loss, of what the discriminator said of a batch: no target (`FL_TARGET_NONE`). The discriminator's loss is
// the sum of its terms of a real and a fake batch.
fl_status fl_gan(const fl_handle *handle,
                 const fl_gan_options *options,
                 const fl_call *call);

// Relativistic pairing GAN, `softplus(input - target)`: for the discriminator input is what it said of the fake batch and
// target of the real one, for the generator the other way round. Gradients for both.
fl_status fl_relativistic_pair(const fl_handle *handle,
                               const fl_call *call);

// Fills in the defaults.
void fl_relativistic_average_options_init(fl_relativistic_average_options *options);

// Relativistic average GAN: input is what the discriminator said of the real batch, target of the fake one, of any length.
// `FL_MEAN` alone; gradients for both or neither.
fl_status fl_relativistic_average(const fl_handle *handle,
                                  const fl_relativistic_average_options *options,
                                  const fl_call *call);

// Fills in the defaults.
void fl_gradient_penalty_options_init(fl_gradient_penalty_options *options);

// Gradient penalty of samples: input is the discriminator's gradient for them, `outer` samples of `classes` elements; no target
// (`FL_TARGET_NONE`).
fl_status fl_gradient_penalty(const fl_handle *handle,
                              const fl_gradient_penalty_options *options,
                              const fl_call *call);

// Fills in the defaults.
void fl_poisson_nll_options_init(fl_poisson_nll_options *options);

// Negative log-likelihood of a Poisson distribution whose (logarithm of the) rate is the input: PyTorch's `poisson_nll_loss`.
fl_status fl_poisson_nll(const fl_handle *handle,
                         const fl_poisson_nll_options *options,
                         const fl_call *call);

// Fills in the defaults.
void fl_gaussian_nll_options_init(fl_gaussian_nll_options *options);

// Negative log-likelihood of a normal distribution: PyTorch's `gaussian_nll_loss`. The input is the mean, `third` of the call the
// variance, for which there is a gradient too.
fl_status fl_gaussian_nll(const fl_handle *handle,
                          const fl_gaussian_nll_options *options,
                          const fl_call *call);

// Fills in the defaults.
void fl_margin_ranking_options_init(fl_margin_ranking_options *options);

// Margin ranking, `max(0, margin - y (x - t))` of input and target; `third` of the call is y, 1 or -1: PyTorch's
// `margin_ranking_loss`. Gradients for input and target.
fl_status fl_margin_ranking(const fl_handle *handle, const fl_margin_ranking_options *options, const fl_call *call);

// Fills in the defaults.
void fl_dpo_options_init(fl_dpo_options *options);

// Direct preference optimisation: input and target are the policy's log-probabilities of the chosen and the rejected answer,
// `third` of the call the reference's log-ratio of the two. Gradients for input and target.
fl_status fl_dpo(const fl_handle *handle,
                 const fl_dpo_options *options,
                 const fl_call *call);

// Fills in the defaults.
void fl_dice_options_init(fl_dice_options *options);

// Dice loss of regions: a channel of a sample each, or of the batch. Targets are masks of the input's shape, or class indices.
fl_status fl_dice(const fl_handle *handle,
                  const fl_dice_options *options,
                  const fl_call *call);

// Fills in the defaults.
void fl_tversky_options_init(fl_tversky_options *options);

// Tversky loss: Dice with a price each for false positives and false negatives.
fl_status fl_tversky(const fl_handle *handle, const fl_tversky_options *options, const fl_call *call);

// Fills in the defaults.
void fl_generalized_dice_options_init(fl_generalized_dice_options *options);

// Generalised Dice loss: one overlap of all channels of a sample, in which rare channels weigh more. MONAI's. No class weights.
fl_status fl_generalized_dice(const fl_handle *handle,
                              const fl_generalized_dice_options *options,
                              const fl_call *call);

// Fills in the defaults.
void fl_lovasz_hinge_options_init(fl_lovasz_hinge_options *options);

// Lovasz hinge of regions, on logits and masks of their shape: the Jaccard index, made convex. No weights.
fl_status fl_lovasz_hinge(const fl_handle *handle, const fl_lovasz_hinge_options *options, const fl_call *call);

// Fills in the defaults.
void fl_lovasz_softmax_options_init(fl_lovasz_softmax_options *options);

// Lovasz-Softmax, on logits and a class index for each position: the mean Jaccard index of classes, made differentiable. No weights.
fl_status fl_lovasz_softmax(const fl_handle *handle,
                            const fl_lovasz_softmax_options *options,
                            const fl_call *call);

// A weighted sum of losses of the same input and target, in one pass and one launch: of element-wise losses, at most four; of Dice or
// Tversky, and one of `FL_TERM_CROSS_ENTROPY` and `FL_TERM_SOFTMAX_FOCAL` after a softmax, or of `FL_TERM_BCE_WITH_LOGITS` and
// `FL_TERM_SIGMOID_FOCAL` after a sigmoid; of cross-entropy and distillation, whose teacher is `third` of the call. `terms` of the call
// is as long as there are terms, and gets their values in their order; but Dice or Tversky comes first, and cross-entropy with
// distillation has three: its value, its z-loss, the distillation.
fl_status fl_sum(const fl_handle *handle,
                 const fl_term *terms,
                 size_t count,
                 const fl_call *call);

// What was wrong with the last call that failed on this thread: one line, which is this thread's and holds until its next
// failure. Never null; empty if none has failed.
const char *fl_last_error(void);

// The name of a status code, such as `FL_ERROR_LENGTH`. Never null.
const char *fl_status_name(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FUSED_LOSS_H */
