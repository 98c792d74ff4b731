"""Is it really better: metrics, intervals, baselines, and the verdict."""

from tunesmith.catalog import Catalog

METRICS = Catalog(
    "metric",
    accuracy="tunesmith.evaluate.labels:ACCURACY",
    macro_f1="tunesmith.evaluate.labels:MACRO_F1",
    micro_f1="tunesmith.evaluate.labels:MICRO_F1",
    weighted_f1="tunesmith.evaluate.labels:WEIGHTED_F1",
    samples_f1="tunesmith.evaluate.labels:SAMPLES_F1",
    exact_match="tunesmith.evaluate.labels:EXACT_MATCH",
    hamming_loss="tunesmith.evaluate.labels:HAMMING_LOSS",
    mcc="tunesmith.evaluate.labels:MCC",
    roc_auc="tunesmith.evaluate.labels:ROC_AUC",
    average_precision="tunesmith.evaluate.labels:AVERAGE_PRECISION",
    log_loss="tunesmith.evaluate.labels:LOG_LOSS",
    mae="tunesmith.evaluate.numbers:MAE",
    mse="tunesmith.evaluate.numbers:MSE",
    rmse="tunesmith.evaluate.numbers:RMSE",
    pearson="tunesmith.evaluate.numbers:PEARSON",
    spearman="tunesmith.evaluate.numbers:SPEARMAN",
    r2="tunesmith.evaluate.numbers:R2",
)

BASELINES = Catalog(
    "baseline",
    majority="tunesmith.evaluate.baselines:majority",
    mean="tunesmith.evaluate.baselines:mean",
    tfidf_logistic="tunesmith.evaluate.baselines:tfidf_logistic",
    tfidf_ridge="tunesmith.evaluate.baselines:tfidf_ridge",
)
