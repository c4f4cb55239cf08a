from medgen.cli import main

main()
