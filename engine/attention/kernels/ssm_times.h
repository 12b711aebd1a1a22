// Of ssm_step.h and ssm_prepare.h: the time that a token takes in a head, and the rate at which the head's state decays.
//   times: before softplus, one a token and head; time_biases, log_rates (heads); numbers: the least and the largest time
// It rounds where mlx-lm's operations round.
#define SOFTPLUS(x) (MAX(x, 0.0f) + LOG1P(EXP((x) < 0 ? (x) : -(x))))
#define CLIP(x) MIN(MAX(x, numbers[0]), numbers[1])
#define TIME_AT(at, head) CLIP(SOFTPLUS(float(times[at]) + float(time_biases[head])))
#define RATE(head) (ROUND_RATES ? float(T(EXP(float(log_rates[head])))) : EXP(float(log_rates[head])))
