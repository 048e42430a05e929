package etcdkv

var Outcome = outcome
