// Not built: the definitions of its kinds are in its module, and the cluster tests give them to an API server.
module etcd-snapshot-operator/e2e/chart/prometheus-operator

go 1.24

require github.com/prometheus-operator/prometheus-operator v0.85.0
