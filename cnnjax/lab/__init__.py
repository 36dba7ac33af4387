"""Around training: the command line, experiments and their claims, sweeps, SLURM, reports and the site."""
