"""`python -m thetahat`, and so `torchrun -m thetahat`, is the command line."""

from thetahat.cli.main import main

if __name__ == "__main__":
    main()
